"""DICOM in and out: reads and checks studies, routes series to models, writes results."""
