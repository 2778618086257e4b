"""What a user of Superset may try, over the API as the browser speaks it, and what must not be in any answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import requests

from selfgen.settings import Settings

TIMEOUT_S = 90


class Person:
    """A user who is logged in, and asks for whatever there is.

    Every answer is kept in `answers`, for a look at all of them.
    """

    def __init__(self, settings: Settings, username: str, password: str) -> None:
        self.base = settings.superset
        self.session = requests.Session()
        self.answers: list[tuple[str, requests.Response]] = []
        # by the form, as a browser: the session opens the pages as well as the interface
        page = self.session.get(f"{self.base}/login/", timeout=TIMEOUT_S).text
        found = re.search(r'id="csrf_token"\s+value="([^"]+)"', page)
        assert found, "the login page has no token"
        login = {"username": username, "password": password, "csrf_token": found[1]}
        self.session.post(f"{self.base}/login/", data=login, timeout=TIMEOUT_S).raise_for_status()
        csrf = self.session.get(f"{self.base}/api/v1/security/csrf_token/", timeout=TIMEOUT_S)
        csrf.raise_for_status()
        self.session.headers.update({"X-CSRFToken": csrf.json()["result"], "Referer": self.base})

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        answer = self.session.request(method, f"{self.base}/{path}", timeout=TIMEOUT_S, **arguments)
        self.answers.append((f"{method} {path} {json.dumps(arguments, default=str)[:300]}", answer))
        return answer

    def listed(self, kind: str) -> list[dict[str, Any]]:
        answer = self.ask("GET", f"api/v1/{kind}/", params={"q": json.dumps({"page_size": 100})})
        found: list[dict[str, Any]] = answer.json()["result"] if answer.ok else []
        return found

    def chart_data(self, dataset: int, result: str = "full", form: str = "json", **query: Any) -> requests.Response:
        """Ask a dataset for rows, as a chart does; `query` is what the chart's form could say."""
        body = {
            "datasource": {"id": dataset, "type": "table"},
            "queries": [{"row_limit": 1000, "time_range": "No filter", "metrics": [], **query}],
            "result_type": result,
            "result_format": form,
            "force": query.pop("force", True),
        }
        return self.ask("POST", "api/v1/chart/data", json=body)

    def rows(self, dataset: int, **query: Any) -> list[dict[str, Any]]:
        answer = self.chart_data(dataset, **query)
        assert answer.ok, answer.text[:500]
        found: list[dict[str, Any]] = answer.json()["result"][0]["data"]
        return found

    def shown(self, *markers: str) -> list[str]:
        """Return what was asked where an answer has one of the markers: as such, and not inside of a key or a time."""
        marked = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, markers))})(?!\w)")
        return [asked for asked, answer in self.answers if marked.search(_plain(answer))]


def _plain(answer: requests.Response) -> str:
    """Return an answer's text, with its characters as people write them."""
    try:
        return json.dumps(answer.json(), ensure_ascii=False) + answer.text
    except ValueError:
        return answer.text


def sql_metric(expression: str) -> dict[str, Any]:
    return {"expressionType": "SQL", "sqlExpression": expression, "label": "tried"}


def sql_column(expression: str) -> dict[str, Any]:
    return {"expressionType": "SQL", "sqlExpression": expression, "label": "tried column"}


def forms(other: str) -> Iterator[dict[str, Any]]:
    """Return what a chart's form may say to see more than it should, on a dataset with client_id and power_gen."""
    energy = [sql_metric("SUM(power_gen)")]
    for where in (
        f"client_id = '{other}'",
        f"1 = 1) OR (client_id = '{other}'",
        f"1 = 0 OR client_id = '{other}'",
        "1 = 1 -- ",
        "1 = 1 /* ",
        "client_id IN (SELECT client_id FROM panel_report)",
        "1 = 0) UNION ALL SELECT client_id FROM druid.panel_report WHERE (1 = 1",
    ):
        yield {"columns": ["client_id"], "extras": {"where": where}}
        yield {"columns": ["client_id"], "metrics": energy, "extras": {"having": where}}
    yield {"columns": ["client_id", "name"], "filters": [{"col": "client_id", "op": "==", "val": other}]}
    yield {"columns": ["client_id"], "filters": [{"col": "client_id", "op": "NOT IN", "val": ["nobody"]}]}
    for expression in (
        "(SELECT SUM(power_gen) FROM panel_report)",
        "(SELECT MAX(client_id) FROM druid.panel_report)",
        "SUM(power_gen) FILTER (WHERE TRUE)",
        "MAX(client_id)",
        "STRING_AGG(DISTINCT client_id, ',')",
        "SUM(SUM(power_gen)) OVER ()",
        "SUM(power_gen)) FROM panel_report --",
        "SUM(power_gen) FROM druid.panel_report UNION ALL SELECT SUM(power_gen)",
        "MAX(client_id) FROM druid.panel_report UNION ALL SELECT MAX(client_id)",
        "MAX(topic_id) FROM druid.topic_performance UNION ALL SELECT MAX(client_id)",
        "MAX(client_id) /* /* */ FROM druid.panel_report UNION ALL SELECT MAX(client_id) -- */",
    ):
        yield {"columns": [], "metrics": [sql_metric(expression)]}
    for expression in (
        "(SELECT MAX(client_id) FROM panel_report)",
        "client_id || name",
        "client_id FROM panel_report --",
        "client_id FROM druid.panel_report UNION ALL SELECT client_id",
        "client_id FROM (VALUES ('a')) AS t (client_id) UNION ALL SELECT client_id",
        "CASE WHEN 1 = 1 THEN client_id END",
    ):
        yield {"columns": [sql_column(expression)], "metrics": energy}
    yield {"columns": ["client_id"], "metrics": energy, "series_columns": ["client_id"], "series_limit": 1}
    yield {"columns": ["client_id"], "metrics": energy, "is_rowcount": True}
    yield {"columns": [], "metrics": energy, "time_offsets": ["1 hour ago"], "time_range": "2020-01-01 : 2100-01-01"}
    yield {"columns": ["client_id"], "metrics": energy, "apply_fetch_values_predicate": True}
    yield {"columns": ["client_id"], "orderby": [[sql_metric("(SELECT MAX(client_id) FROM panel_report)"), True]]}
    yield {"columns": ["client_id"], "metrics": energy, "url_params": {"client_id": other}, "applied_time_extras": {}}


def pages(person: Person, datasets: dict[str, int], charts: list[int], dashboards: list[int]) -> None:
    """Ask for everything else that tells of rows, people or rights."""
    listing = json.dumps({"page_size": 100})
    for path in (
        *("dataset", "chart", "dashboard", "database", "query", "saved_query", "report", "log", "rowlevelsecurity"),
        *("security/users", "security/roles", "security/groups", "security/permissions-resources"),
        *("security/user_registrations", "annotation_layer", "css_template", "theme", "tag", "task"),
    ):
        person.ask("GET", f"api/v1/{path}/", params={"q": listing})
    for kind in ("dataset", "chart", "dashboard", "report"):
        for column in ("owners", "created_by", "changed_by", "roles", "editors"):
            person.ask("GET", f"api/v1/{kind}/related/{column}", params={"q": listing})
    for column in ("tables", "roles"):
        person.ask("GET", f"api/v1/rowlevelsecurity/related/{column}")
    for path in ("me/", "me/roles/", "menu/", "log/recent_activity/", "assets/export/", "available_domains/"):
        person.ask("GET", f"api/v1/{path}")
    for path in ("users/list/", "roles/", "rowlevelsecurity/list/", "sqllab/", "superset/welcome/"):
        person.ask("GET", path)
    for table, dataset in datasets.items():
        dataset_pages(person, table, dataset, charts)
    for number in charts:
        person.ask("GET", f"api/v1/chart/{number}")
        person.ask("GET", f"api/v1/chart/{number}/data/")
        person.ask("GET", f"api/v1/explore/?slice_id={number}")
        person.ask("PUT", "api/v1/chart/warm_up_cache", json={"chart_id": number})
    for number in dashboards:
        for part in ("", "/datasets", "/charts", "/embedded", "/tabs"):
            person.ask("GET", f"api/v1/dashboard/{number}{part}")
    for kind, numbers in (("dashboard", dashboards), ("chart", charts), ("dataset", list(datasets.values()))):
        person.ask("GET", f"api/v1/{kind}/export/", params={"q": json.dumps(numbers)})


def dataset_pages(person: Person, table: str, dataset: int, charts: list[int]) -> None:
    """Ask for a dataset by every way that is not a chart's own."""
    for column in ("client_id", "name", "element_id"):
        person.ask("GET", f"api/v1/datasource/table/{dataset}/column/{column}/values/")
    for path in (f"dataset/{dataset}", f"dataset/{dataset}/drill_info/", "dataset/distinct/schema"):
        person.ask("GET", f"api/v1/{path}")
    person.ask("POST", f"datasource/samples?datasource_type=table&datasource_id={dataset}", json={})
    person.ask("GET", f"datasource/get/table/{dataset}/")
    person.ask("GET", f"api/v1/explore/?datasource_id={dataset}&datasource_type=table")
    person.ask("GET", f"api/v1/database/1/table_metadata/?name={table}&schema=druid")
    person.ask("GET", f"api/v1/database/1/select_star/{table}/druid/")
    form = {"datasource": f"{dataset}__table", "viz_type": "table", "query_mode": "raw", "all_columns": ["name"]}
    person.ask("POST", f"superset/explore_json/table/{dataset}/", data={"form_data": json.dumps(form)})
    person.ask("GET", "superset/explore_json/", params={"form_data": json.dumps(form), "csv": "true"})
    for result in ("samples", "results", "query", "columns", "timegrains", "drill_detail", "post_processed"):
        person.chart_data(dataset, result=result, columns=["client_id"])
    for form_of in ("csv", "xlsx"):
        person.chart_data(dataset, form=form_of, columns=["client_id"])
    person.chart_data(dataset, columns=["client_id"], annotation_layers=_annotations(charts))


def _annotations(charts: list[int]) -> list[dict[str, Any]]:
    return [
        {"name": f"a{number}", "value": number, "sourceType": "table", "annotationType": "EVENT", "show": True}
        | {"overrides": {"time_range": None}, "showLabel": True, "showMarkers": False, "style": "solid"}
        for number in charts
    ]


def seizures(person: Person, dataset: int, own_id: int) -> list[requests.Response]:
    """Try to write, to run SQL, to become more: each must be refused."""
    sql = "SELECT * FROM panel_report"
    tries: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "api/v1/sqllab/execute/", {"database_id": 1, "sql": sql, "schema": "druid"}),
        ("POST", "api/v1/sqllab/estimate/", {"database_id": 1, "sql": sql}),
        ("POST", "api/v1/dataset/", {"database": 1, "schema": "druid", "table_name": "mine", "sql": sql}),
        ("PUT", f"api/v1/dataset/{dataset}", {"sql": sql}),
        ("POST", "api/v1/dataset/get_or_create/", {"database_id": 1, "table_name": "mine", "schema": "druid"}),
        ("POST", "api/v1/chart/", {"slice_name": "mine", "datasource_id": dataset, "datasource_type": "table"}),
        ("POST", "api/v1/dashboard/", {"dashboard_title": "mine"}),
        ("POST", "api/v1/report/", {"name": "mine", "type": "Report"}),
        ("POST", "api/v1/rowlevelsecurity/", {"name": "mine", "filter_type": "Base", "tables": [dataset], "roles": []}),
        ("PUT", f"api/v1/security/users/{own_id}", {"roles": [1]}),
        ("PUT", "api/v1/me/", {"roles": [1]}),
        ("POST", "api/v1/security/roles/", {"name": "mine"}),
        ("POST", "api/v1/security/guest_token/", {"user": {}, "resources": [], "rls": []}),
        ("POST", "api/v1/cachekey/invalidate", {"datasource_uids": [f"{dataset}__table"]}),
        ("POST", "api/v1/database/", {"database_name": "mine", "sqlalchemy_uri": "sqlite://"}),
        ("POST", "api/v1/assets/import/", {}),
    ]
    return [person.ask(method, path, json=body) for method, path, body in tries]
