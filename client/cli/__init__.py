"""The command line: `hounsfield`."""
