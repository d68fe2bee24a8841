"""The table of docs/hosts.md: `python -m headway.hosts.table` prints it."""

from transformers import AutoConfig

from headway.hosts.family import Family, own_families
from headway.mechanisms.base import Mechanism


def support_table() -> str:
    """Families and mechanisms of Headway itself, as Markdown, with the reasons below it.

    A cell is what the family says of the mechanism with its default options and of each model
    type with its default configuration.
    """
    own = [cls for cls in Mechanism.registry.values() if cls.__module__.startswith("headway.")]
    mechanisms = [cls() for cls in sorted(own, key=lambda cls: (cls.place, cls.name))]
    reasons: list[str] = []
    rows = [["family", "model types", *(f"`{m.name}`" for m in mechanisms)]]
    rows.append(["---"] * len(rows[0]))
    for family in dict.fromkeys(own_families().values()):
        types = ", ".join(f"`{t}`" for t in family.model_types)
        rows.append([family.name, types, *(_cell(family, m, reasons) for m in mechanisms)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"{n}. {told}" for n, told in enumerate(reasons, 1))]).strip()


def _cell(family: Family, mechanism: Mechanism, reasons: list[str]) -> str:
    """'yes', or 'no' or 'in part' with the number of the reason, which joins the list."""
    refused: dict[str, str] = {}
    for model_type in family.model_types:
        reason = family.refuses(AutoConfig.for_model(model_type), mechanism)
        if reason:
            refused[model_type] = reason
    if not refused:
        return "yes"
    said = "; ".join(f"`{t}` and `{mechanism.name}`: {why}" for t, why in refused.items())
    if said not in reasons:
        reasons.append(said)
    word = "no" if len(refused) == len(family.model_types) else "in part"
    return f"{word} ({reasons.index(said) + 1})"


if __name__ == "__main__":
    print(support_table())
