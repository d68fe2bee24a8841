"""Filling a page's template: everything escaped, plotly's script and the styles inside."""

from typing import Any


def fill(template: str, **values: Any) -> str:
    """A page as HTML.

    Args:
        template: file in `templates`.
        values: what it names, besides `plotly_js`; a name that is missing is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("headway.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(plotly_js=get_plotlyjs(), **values)
