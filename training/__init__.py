"""Train the U-Nets that are served: label maps ▶ drawn images ▶ network ▶ ONNX ▶ measured."""

from __future__ import annotations
