"""Pages to look at: what a table holds, how good a model is, which of two is better.

A page is one HTML file without outside resources. ``page`` makes it of sections, ``figures`` draws
what stands in them; ``exploration``, ``evaluation`` and ``comparison`` say what there is to see.
"""

from __future__ import annotations

from tfserve.errors import missing_extra

try:
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401
    import scipy  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    raise missing_extra(error.name or "matplotlib", "report") from None
