"""Superset's configuration. Everything that differs between places comes from the environment.

=========================== ====================================================================
`SUPERSET_HOME`             folder of Superset's state: metadata, caches, the two secrets
`SELFGEN_SUPERSET_SECRET`   key that signs sessions and encrypts stored passwords; where it is not
                            given, one is made at the first start and kept in `secret-key`
=========================== ====================================================================
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import tiles

HOME = Path(os.environ["SUPERSET_HOME"])

SECRET_KEY = os.environ.get("SELFGEN_SUPERSET_SECRET") or (HOME / "secret-key").read_text().strip()
SQLALCHEMY_DATABASE_URI = f"sqlite:///{HOME}/superset.db?check_same_thread=false"

APP_NAME = "Selfgen"

# Browser forms carry a CSRF token, the API a JWT. The local stack speaks plain HTTP on the loopback address.
WTF_CSRF_ENABLED = True
WTF_CSRF_TIME_LIMIT = None
TALISMAN_ENABLED = False

# Analysts who watch the same dashboard share its queries: a refresh may answer from the cache, whose answers
# are younger than the shortest refresh.
DASHBOARD_AUTO_REFRESH_MODE = "fetch"


def _cache(name: str, seconds: int) -> dict[str, object]:
    return {
        "CACHE_TYPE": "FileSystemCache",
        "CACHE_DIR": str(HOME / "cache" / name),
        "CACHE_THRESHOLD": 2000,
        "CACHE_DEFAULT_TIMEOUT": seconds,
    }


CACHE_CONFIG = _cache("metadata", 300)
DATA_CACHE_CONFIG = _cache("data", 5)
FILTER_STATE_CACHE_CONFIG = _cache("filters", 7 * 86400)
EXPLORE_FORM_DATA_CACHE_CONFIG = _cache("explore", 86400)

# "Last day" runs back from the present moment; the default anchors it at midnight.
DEFAULT_RELATIVE_START_TIME = "now"
DEFAULT_RELATIVE_END_TIME = "now"

# Okabe and Ito's palette (2008), which the colour-blind tell apart; its yellow, pale on white, comes last.
EXTRA_CATEGORICAL_COLOR_SCHEMES = [
    {
        "id": "selfgen",
        "label": "Selfgen (colour-blind safe)",
        "description": "Okabe and Ito",
        "isDefault": True,
        "colors": ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442"],
    }
]

# No Celery beside this server, and no screenshots made by it.
RESULTS_BACKEND = None

# Maps draw without internet: their tiles come from this server.
BLUEPRINTS = [tiles.blueprint]
DECKGL_BASE_MAP = [["tile:///selfgen/tiles/{z}/{x}/{y}.png", "Land and provinces"]]
