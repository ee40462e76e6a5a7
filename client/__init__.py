"""The client tier: gateway, queue, worker, stores, ledger, crypto, DICOM, command line."""
