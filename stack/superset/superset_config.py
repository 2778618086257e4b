"""Superset's configuration. Everything that differs between places comes from the environment.

================================= ==============================================================
`SUPERSET_HOME`                   folder of Superset's state: metadata, caches, the two secrets
`SELFGEN_SUPERSET_SECRET`         key that signs sessions and encrypts stored passwords; where it is
                                  not given, one is made at the first start and kept in `secret-key`
`SELFGEN_SUPERSET_DATABASE`       SQLAlchemy URI of the metadata; empty: SQLite in the folder
`SELFGEN_SUPERSET_REDIS`          URL of Redis: caches, failed log-ins, scheduled work; empty: files, none
`SELFGEN_SUPERSET_BEHIND_PROXY`   true: a proxy in front speaks HTTPS and sets X-Forwarded-For, -Proto, …
`SELFGEN_SUPERSET_URL`            address where the reports' process finds the server
`SELFGEN_SUPERSET_PUBLIC_URL`     address that people use, for the links in e-mailed reports
`SELFGEN_SUPERSET_SMTP_…`         HOST, PORT, USER, PASSWORD, STARTTLS, FROM: with Redis, reports by e-mail
================================= ==============================================================
"""

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask, current_app, g, request
from sqlalchemy import event
from sqlalchemy.orm import Query
from superset.config import THEME_DARK as _DARK
from superset.config import THEME_DEFAULT as _LIGHT
from superset.errors import ErrorLevel, SupersetError, SupersetErrorType
from superset.exceptions import SupersetSecurityException
from superset.security import SupersetSecurityManager
from superset.utils.log import DBEventLogger

sys.path.append(str(Path(__file__).parent))

import tiles

HOME = Path(os.environ["SUPERSET_HOME"])


def _given(name: str, default: str = "") -> str:
    return os.environ.get(f"SELFGEN_SUPERSET_{name}") or default


def _is_true(name: str, default: str = "false") -> bool:
    return _given(name, default).lower() in {"1", "true", "yes"}


REDIS = _given("REDIS")
BEHIND_PROXY = _is_true("BEHIND_PROXY")

SECRET_KEY = _given("SECRET") or (HOME / "secret-key").read_text().strip()
SQLALCHEMY_DATABASE_URI = _given("DATABASE", f"sqlite:///{HOME}/superset.db?check_same_thread=false")

APP_NAME = "Selfgen"

# Browser forms carry a CSRF token, the API a JWT.
WTF_CSRF_ENABLED = True
WTF_CSRF_TIME_LIMIT = None

# The local stack speaks plain HTTP on the loopback address. Behind a proxy that speaks HTTPS, the address and the
# scheme are those that it was asked by, cookies travel over HTTPS only, and Talisman sends Superset's own content
# security policy with HSTS. It does not redirect to HTTPS: health checks come past the proxy.
ENABLE_PROXY_FIX = BEHIND_PROXY
PREFERRED_URL_SCHEME = "https" if BEHIND_PROXY else "http"
SESSION_COOKIE_SECURE = BEHIND_PROXY
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
TALISMAN_ENABLED = BEHIND_PROXY
if BEHIND_PROXY:
    from superset.config import TALISMAN_CONFIG as _TALISMAN

    TALISMAN_CONFIG = {**_TALISMAN, "force_https": False, "session_cookie_secure": True}

# Log-ins that are tried out are slowed down, by the page and by the API. The workers count them together, which takes
# Redis.
RATELIMIT_ENABLED = bool(REDIS)
RATELIMIT_STORAGE_URI = REDIS or "memory://"
RATELIMIT_APPLICATION = None

# A dashboard with roles is seen by these only; `selfgen superset apply` gives them to those that show a dataset
# which is not of clients.
FEATURE_FLAGS = {"DASHBOARD_RBAC": True, "ALERT_REPORTS": bool(REDIS and _given("SMTP_HOST"))}


def _roles() -> dict[str, int]:
    from superset import security_manager

    return {role.name: role.id for role in security_manager.get_user_roles()}


def _only_oneself(query: Query) -> Query:
    """Let a client's user find itself in Superset's lists of people, and nobody else."""
    from superset import security_manager

    return query.filter(security_manager.user_model.id == g.user.id) if "client" in _roles() else query


def _only_own_roles(query: Query) -> Query:
    """Let a client's user find its own roles in Superset's lists, and no others."""
    from superset import security_manager

    roles = _roles()
    return query.filter(security_manager.role_model.id.in_(roles.values())) if "client" in roles else query


EXTRA_RELATED_QUERY_FILTERS = {"user": _only_oneself, "role": _only_own_roles}


class CUSTOM_SECURITY_MANAGER(SupersetSecurityManager):
    """Superset's own, but that a client's charts ask datasets only.

    Superset lets a chart ask what somebody else once asked in SQL Lab, of tables that one may see: with one's own rows,
    but the other's text, which may name anybody.
    """

    def raise_for_access(self, *, query: Any = None, **subject: Any) -> None:
        """Raise where the user may not see the subject."""
        if query is not None and "client" in _roles():
            raise SupersetSecurityException(self.get_table_access_error_object(set()))
        super().raise_for_access(query=query, **subject)


def FLASK_APP_MUTATOR(app: Flask) -> None:
    """Mend Superset: refuse charts' expressions that name a table, limit the API's log-ins as the page's, pivot faster.

    A row rule stands in the dataset's own query only. Superset refuses sub-queries, but takes
    `x FROM table UNION ALL SELECT x` for a column. Comments are refused too: its parser and Druid's do not agree on
    where one ends.
    """
    from sqlglot import exp
    from superset.models import helpers
    from superset.sql.parse import SQLStatement
    from superset.utils.pandas_postprocessing import utils as postprocessing

    without_subqueries = helpers.validate_adhoc_subquery

    def of_columns_only(sql: str, database: Any, catalog: str | None, default_schema: str, engine: str) -> str:
        outside_texts = re.sub("'[^']*'", "", sql)
        commented = any(mark in outside_texts for mark in ("--", "/*", "//"))
        if commented or SQLStatement(sql, engine)._parsed.find(exp.Table, exp.SetOperation):
            message = "A chart's expression is made of the dataset's columns: no other table, no sub-query, no comment."
            raise SupersetSecurityException(
                SupersetError(message, SupersetErrorType.ADHOC_SUBQUERY_NOT_ALLOWED_ERROR, ErrorLevel.ERROR)
            )
        return without_subqueries(sql, database, catalog, default_schema, engine)

    helpers.validate_adhoc_subquery = of_columns_only
    # a mean without options is pandas' own, of all groups at once, where Superset's has Python take each by itself
    postprocessing.partial = lambda function, **options: partial(function, **options) if options else function

    _keep_names_out_of_dashboards(app)
    limited = app.appbuilder.sm.limiter.limit(app.config["AUTH_RATE_LIMIT"])
    app.view_functions["SecurityApi.login"] = limited(app.view_functions["SecurityApi.login"])


def _keep_names_out_of_dashboards(app: Flask) -> None:
    """Have dashboards not remember the colours of charts' series, which a page gives them anew from its palette.

    Whoever may edit a dashboard stores them by opening it, with all clients' names, for all who may see it to read; of
    others Superset refuses them, which their pages take for an error.
    """
    from superset.models.dashboard import Dashboard

    @event.listens_for(Dashboard.json_metadata, "set", retval=True)
    def without_names(dashboard: Dashboard, metadata: str | None, *_: Any) -> str | None:
        if not metadata:
            return metadata
        kept = json.loads(metadata)
        return json.dumps({key: kept[key] for key in kept if key not in {"map_label_colors", "shared_label_colors"}})

    @app.before_request
    def take_no_colours() -> dict[str, Any] | None:
        return {"result": []} if request.endpoint == "DashboardRestApi.put_colors" else None


# Analysts who watch the same dashboard share its queries: a refresh may answer from the cache, whose answers are so
# young that one which took some seconds to come is not there any more at the next of the shortest refreshes, 5 s.
DASHBOARD_AUTO_REFRESH_MODE = "fetch"


def _cache(name: str, seconds: int) -> dict[str, object]:
    if REDIS:
        return {
            "CACHE_TYPE": "RedisCache",
            "CACHE_REDIS_URL": REDIS,
            "CACHE_KEY_PREFIX": f"superset_{name}_",
            "CACHE_DEFAULT_TIMEOUT": seconds,
        }
    return {
        "CACHE_TYPE": "FileSystemCache",
        "CACHE_DIR": str(HOME / "cache" / name),
        "CACHE_THRESHOLD": 2000,
        "CACHE_DEFAULT_TIMEOUT": seconds,
    }


CACHE_CONFIG = _cache("metadata", 300)
DATA_CACHE_CONFIG = _cache("data", 2)
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

# A page is drawn once, not a dozen charts sixty times a second while the rest of it still loads.
THEME_DEFAULT, THEME_DARK = ({**theme, "echartsOptionsOverrides": {"animation": False}} for theme in (_LIGHT, _DARK))


class _Noting(DBEventLogger):
    """Superset's own log of what people do, written by a thread of its own.

    Its commit has the session forget what the request has read so far, to read it again.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")

    def log(self, *happened: Any, **details: Any) -> None:
        """Have an event written."""
        self._thread.submit(self._write, current_app._get_current_object(), happened, details)

    def _write(self, app: Flask, happened: tuple[Any, ...], details: dict[str, Any]) -> None:
        with app.app_context():
            super().log(*happened, **details)


EVENT_LOGGER = _Noting()

RESULTS_BACKEND = None

# Maps draw without internet: their tiles come from this server.
BLUEPRINTS = [tiles.blueprint]
DECKGL_BASE_MAP = [["tile:///selfgen/tiles/{z}/{x}/{y}.png", "Land and provinces"]]

# Scheduled reports, by a process of their own beside this server (reports.py).
SMTP_HOST = _given("SMTP_HOST")
SMTP_PORT = int(_given("SMTP_PORT", "587"))
SMTP_USER = _given("SMTP_USER")
SMTP_PASSWORD = _given("SMTP_PASSWORD")
SMTP_STARTTLS = _is_true("SMTP_STARTTLS", "true")
SMTP_SSL_SERVER_AUTH = SMTP_STARTTLS
SMTP_MAIL_FROM = _given("SMTP_FROM", "selfgen@localhost")
WEBDRIVER_BASEURL = _given("URL", "http://127.0.0.1:18017")
WEBDRIVER_BASEURL_USER_FRIENDLY = _given("PUBLIC_URL", WEBDRIVER_BASEURL)
EMAIL_REPORTS_SUBJECT_PREFIX = "[Selfgen]"
EMAIL_REPORTS_CTA = "Open in Selfgen"

CELERY_CONFIG = None
if REDIS:
    from superset.config import CeleryConfig

    class CELERY_CONFIG(CeleryConfig):
        """Superset's own schedule, with Redis between the scheduler and the worker."""

        broker_url = REDIS
        result_backend = REDIS
