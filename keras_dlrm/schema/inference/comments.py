"""An inferred schema as YAML, with the reason for each column as a comment."""

from typing import Any

import yaml

from keras_dlrm.schema.columns import compact
from keras_dlrm.schema.inference.table import Inferred


def commented(description: dict[str, Any], inferred: Inferred) -> str:
    """A schema's description as YAML, a line for each column with its reason as a comment, and what was left out."""

    def flow(entry: Any) -> str:
        return yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9).strip()

    def comment(text: str) -> str:
        return " ".join(text.split())

    lines = [f"# {comment(sentence)}" for sentence in (*inferred.warnings, inferred.cut) if sentence]
    rest = {key: value for key, value in description.items() if key not in ("dense", "categorical")}
    lines += yaml.safe_dump(rest, sort_keys=False, allow_unicode=True).splitlines()
    for kind in ("dense", "categorical"):
        lines.append(f"{kind}:" if description[kind] else f"{kind}: []")
        for entry in description[kind]:
            lines.append(f"- {flow(entry)}  # {comment(inferred.reasons[entry['name']])}")
    if inferred.crosses:
        lines.append("# Crosses to try: each tells more than its columns do by themselves. Move what is in braces up.")
        lines += [f"# - {flow(compact(cross))}: {why}" for cross, why in inferred.crosses]
    if inferred.left_out:
        lines.append("# Left out:")
        lines += [f"# - {flow({'name': name})}: {comment(why)}" for name, why in inferred.left_out.items()]
    return "\n".join(lines) + "\n"
