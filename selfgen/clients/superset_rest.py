"""Superset's REST interface: a session of the administrator.

>>> client = Client(settings)
>>> client.call("GET", "dashboard/selfgen-overview").json()["result"]["dashboard_title"]
'Selfgen overview'
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import requests
import yaml
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from selfgen.settings import Settings

PASSWORD_FILE = "superset-admin-password"  # noqa: S105 - its name, not a password

_TIMEOUT_S = 120.0
#: What log-ins are limited by, "5 per second".
_LIMITED_S = 1.0
_PAGE = 100

Asset = dict[str, Any]

#: the field that people know an asset by, by kind
NAMES = {
    "databases": "database_name",
    "datasets": "table_name",
    "charts": "slice_name",
    "dashboards": "dashboard_title",
}


class SupersetError(Exception):
    """Superset cannot be reached, or refused what was asked; the message says which and why."""


def password(settings: Settings) -> str:
    """Return the administrator's password: the configured one, or the one Superset's first start made.

    Raises
    ------
    SupersetError
        If there is neither.
    """
    configured = settings.superset_password.get_secret_value()
    if configured:
        return configured
    kept = settings.stack_dir / "superset" / PASSWORD_FILE
    if not kept.exists():
        raise SupersetError(
            f"no password for Superset: set SELFGEN_SUPERSET_PASSWORD, or start Superset, which makes {kept}"
        )
    return kept.read_text().strip()


def pack(assets: dict[str, Asset]) -> bytes:
    """Return the assets as the zip file that Superset imports."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, asset in assets.items():
            bundle.writestr(f"assets/{name}", yaml.safe_dump(asset, sort_keys=False, allow_unicode=True))
    return buffer.getvalue()


class Client:
    """A session with Superset's REST interface, logged in as the administrator."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.superset
        self.session = requests.Session()
        login = {"username": settings.superset_user, "password": password(settings), "provider": "db"}
        token = self.call("POST", "security/login", json=login).json()["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"
        csrf = self.call("GET", "security/csrf_token/").json()["result"]
        # behind a proxy that speaks HTTPS the session's cookie is for HTTPS only, and this may come past the proxy
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.session.cookies)
        self.session.headers.update({"X-CSRFToken": csrf, "Referer": self.url, "Cookie": cookies})

    def call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Return the answer to a request below `/api/v1/`.

        Raises
        ------
        SupersetError
            If there is no answer, or it is an error.
        """
        url = f"{self.url}/api/v1/{path}"
        with self._reached():
            answer = self.session.request(method, url, timeout=_TIMEOUT_S, allow_redirects=False, **arguments)
        # it sends whom it does not know to its page of log-in, which would look like success
        if not answer.ok or answer.is_redirect:
            raise SupersetError(f"{method} {url}: {answer.status_code} {answer.text[:1000]}")
        return answer

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except requests.RequestException as error:
            raise SupersetError(f"no answer from Superset at {self.url}: {error}") from error

    def pages(self, path: str, order: str, filters: Sequence[dict[str, str]] = ()) -> Iterator[dict[str, Any]]:
        """Return what a list has, page by page, ordered by a column."""
        page = 0
        while True:
            ordered = {"order_column": order, "order_direction": "asc"}
            query = {"page": page, "page_size": _PAGE, "filters": list(filters), **ordered}
            found = self.call("GET", path, params={"q": json.dumps(query)}).json()["result"]
            yield from found
            if len(found) < _PAGE:
                return
            page += 1

    def opens(self, username: str, password: str) -> bool:
        """Tell whether a password is a user's.

        Raises
        ------
        SupersetError
            If there is no answer, or none but that there were too many log-ins.
        """
        login = {"username": username, "password": password, "provider": "db"}
        # where log-ins are limited, a list of users may be read faster than their passwords may be tried
        patient = Retrying(
            retry=retry_if_result(lambda answer: answer.status_code == requests.codes.too_many_requests),
            wait=wait_fixed(_LIMITED_S),
            stop=stop_after_delay(_TIMEOUT_S),
        )
        try:
            with self._reached():
                return bool(
                    patient(requests.post, f"{self.url}/api/v1/security/login", json=login, timeout=_TIMEOUT_S).ok
                )
        except RetryError as error:
            raise SupersetError(f"{self.url} takes no more log-ins from here; try again later") from error

    def export(self) -> dict[str, Asset]:
        """Return all assets that Superset has, by their path in its export (`charts/Energy_1.yaml`)."""
        content = self.call("GET", "assets/export/").content
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            found = {name.partition("/")[2]: bundle.read(name) for name in bundle.namelist()}
        return {name: yaml.safe_load(text) for name, text in found.items() if name.split("/")[0] in NAMES}

    def load(self, assets: dict[str, Asset]) -> None:
        """Create the assets, or make those that exist the ones given."""
        files = {"bundle": ("assets.zip", pack(assets), "application/zip")}
        self.call("POST", "assets/import/", files=files, data={"passwords": "{}"})
