"""Vendored protovalidate rule definitions (Apache-2.0), generated for our import path."""
