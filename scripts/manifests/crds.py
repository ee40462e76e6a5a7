"""Make k8s/schemas from the definitions of custom resources, as their projects publish them.

CustomResourceDefinition ▶ openAPIV3Schema ▶ no unknown field ▶ <group>/<kind>_<version>.json

python -m scripts.manifests.crds FILE…
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ("schemas_of", "strict")

_SCHEMAS = Path(__file__).parent.parent.parent / "k8s" / "schemas"
_WORDS = ("description", "default", "example")


def main(arguments: list[str]) -> int:
    """Write one schema for each kind and served version in the given files."""
    for name in arguments:
        for definition in yaml.safe_load_all(Path(name).read_text()):
            for path, schema in schemas_of(definition or {}):
                target = _SCHEMAS / path
                target.parent.mkdir(exist_ok=True)
                text = json.dumps(schema, sort_keys=True, separators=(",", ":"))
                target.write_text(text + "\n")
                print(path)
    return 0


def schemas_of(definition: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield file name and JSON schema of every served version of a definition.

    Args:
        definition: A CustomResourceDefinition; any other object yields nothing.
    """
    if definition.get("kind") != "CustomResourceDefinition":
        return
    spec = definition["spec"]
    kind = spec["names"]["kind"]
    for version in spec["versions"]:
        if not version["served"]:
            continue
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"].pop("status", None)
        schema["properties"] |= {
            "apiVersion": {"const": f"{spec['group']}/{version['name']}"},
            "kind": {"const": kind},
            "metadata": {"type": "object"},
        }
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        yield f"{spec['group']}/{kind.lower()}_{version['name']}.json", schema


def strict(schema: Any) -> Any:
    """Return an OpenAPI v3 schema as a JSON schema that lets no unknown field pass.

    The API server drops a field that the schema does not name, without a word. Kubernetes' own
    words are honoured: ``x-kubernetes-preserve-unknown-fields``, ``x-kubernetes-int-or-string``
    and ``nullable``; its CEL rules are not evaluated.
    """
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            made[key] = {name: strict(part) for name, part in value.items()}
        elif key in ("items", "additionalProperties", "not") and isinstance(value, dict):
            made[key] = strict(value)
        elif key == "pattern":
            made[key] = value.replace("^(?i)", "(?i)^")  # Python wants a flag first, Go does not
        elif key in ("allOf", "anyOf", "oneOf"):
            # They narrow what stands beside them and name only a part of its fields.
            made[key] = value
        elif key not in _WORDS and not key.startswith("x-kubernetes-") and key != "nullable":
            made[key] = value
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    loose = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if "properties" in made and not loose:
        made["additionalProperties"] = False
    if schema.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
