"""Reads a metrics endpoint as Prometheus does."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

__all__ = ("Scrape", "scrape", "scrape_registry")


@dataclass(frozen=True)
class Scrape:
    """What one scrape said."""

    text: str

    def families(self) -> dict[str, str]:
        """Kind of each metric, by the name that its samples have (without a histogram's ends)."""
        found = text_string_to_metric_families(self.text)
        return {f"{f.name}_total" if f.type == "counter" else f.name: f.type for f in found}

    def samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value of each sample of this name."""
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if sample.name == name:
                    yield dict(sample.labels), float(sample.value)

    def total(self, name: str, **labels: str) -> float:
        """Sum over every sample that has these labels."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())


def scrape(address: str) -> Scrape:
    """What ``host:port`` shows now."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return Scrape(answer.read().decode())


def scrape_registry(registry: CollectorRegistry) -> Scrape:
    """What a registry would show now."""
    return Scrape(generate_latest(registry).decode())
