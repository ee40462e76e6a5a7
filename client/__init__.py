"""The client tier: protocol, gateway, queue, worker, stores, ledger, crypto, DICOM, command line."""
