"""The local stack: every part of Hounsfield on one machine, supervised."""
