"""Checks SBOMs against the schema of CycloneDX, and that each names the modules that its binary is made of."""

import json
import subprocess
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def check(sbom, binary):
    with open(sbom, encoding="utf-8") as file:
        text = file.read()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        sys.exit(f"{sbom}: {error}")
    components = {c["name"]: c["version"] for c in json.loads(text)["components"]}
    lines = subprocess.run(["go", "version", "-m", binary], capture_output=True, text=True, check=True).stdout.splitlines()
    linked = [line.split("\t") for line in lines if line.startswith("\tdep\t")]
    for _, _, module, version, *_ in linked:
        own = module.startswith("github.com/latchkeydb/")
        if components.get(module) != version and not (own and module in components):
            sys.exit(f"{sbom}: {module} {version} is missing, or has another version")
    if len(components) != len(linked) + 1 or not components["std"].startswith("go"):
        sys.exit(f"{sbom}: it has {len(components)} components, and the binary {len(linked)} modules and the standard library")


for pair in sys.argv[1:]:
    check(*pair.split("="))
print(f"{len(sys.argv) - 1} SBOMs are as CycloneDX 1.6 says")
