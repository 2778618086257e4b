r"""Look at a dashboard as a person does: log in with chromium, wait until every chart is drawn, read it.

>>> state = open_dashboard(settings, "selfgen-overview", ROOT / "build/screenshots/overview.png")
>>> state.errors
[]
>>> state.charts["Open alarms"].text
'3\nraised and not cleared'
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, TimeoutError, sync_playwright
from tenacity import retry, retry_if_result, stop_after_attempt, stop_before_delay, wait_fixed

from selfgen.clients.superset import dashboard_url, password
from selfgen.settings import Settings

FLAGS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 90_000
#: How often charts are read while they are waited for: that takes the page's own thread.
_POLLING_MS = 100
#: Tall enough for a whole dashboard: Superset draws only the charts in view.
HEIGHT = 2600

# every chart's title, its text, and what it drew or failed to draw
CHARTS = """
() => [...document.querySelectorAll('.dashboard-component-chart-holder:has([data-test-chart-id])')].map(holder => ({
    title: holder.querySelector('[data-test="editable-title"], .header-title')?.innerText.trim() ?? '',
    text: holder.querySelector('.chart-container, [data-test="chart-container"]')?.innerText.trim() ?? '',
    drawn: holder.querySelector('canvas, svg.vx, table, .header-line') !== null,
    loading: holder.querySelector('.loading, [data-test="loading-indicator"]') !== null,
    empty: holder.querySelector('.ant-empty, [data-test="empty-state"]') !== null,
    error: holder.querySelector('.ant-alert-error, [role="alert"]')?.innerText.trim() ?? '',
}))
"""


# whether every chart has become as wide as its place
FILLED = """
() => [...document.querySelectorAll('.chart-container')].every(place => [...place.querySelectorAll('canvas')].every(
    canvas => canvas.getBoundingClientRect().width > 0.8 * place.getBoundingClientRect().width))
"""


@dataclass(frozen=True)
class Chart:
    """A chart as drawn: its text, whether it drew a figure, its empty state, the error it shows."""

    title: str
    text: str
    drawn: bool
    empty: bool
    error: str

    @property
    def figure(self) -> str:
        """Its first line: of a number, the number."""
        return self.text.partition("\n")[0]


@dataclass
class DashboardState:
    """What a dashboard shows, and everything that went wrong while it was drawn."""

    charts: dict[str, Chart] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)

    def undrawn(self) -> list[str]:
        """Return the titles of charts without a figure, with the reason."""
        return [
            f"{chart.title}: {chart.error or ('no data' if chart.empty else 'nothing drawn')}"
            for chart in self.charts.values()
            if chart.error or chart.empty or not chart.drawn
        ]


@contextmanager
def page_of(settings: Settings, errors: list[str], width: int = 1600) -> Iterator[Page]:
    """Give a page of a browser, logged in as the administrator; what goes wrong is added to `errors`."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise RuntimeError("chromium is missing: install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield _logged_in(browser.new_page(viewport={"width": width, "height": HEIGHT}), settings, errors)
        browser.close()


def _logged_in(page: Page, settings: Settings, errors: list[str]) -> Page:
    page.set_default_timeout(TIMEOUT_MS)
    page.on("pageerror", lambda error: errors.append(str(error)[:300]))
    page.on("response", lambda r: errors.append(f"{r.status} {r.url[:300]}") if r.status >= 400 else None)
    log_in(page, settings)
    return page


@retry(retry=retry_if_result(lambda url: "/login" in url), stop=stop_after_attempt(3))
def log_in(page: Page, settings: Settings) -> str:
    """Log in as the user of the settings, and return where that leads.

    Again where Superset took the password, but asks for it once more: an answer to the login page's own requests that
    comes after the login's undoes its session cookie.
    """
    login = f"{settings.superset}/login/"
    page.goto(login, wait_until="networkidle")
    page.fill("#username, input[name=username]", settings.superset_user)
    page.fill("#password, input[name=password]", password(settings))
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url != login, wait_until="commit")
    return page.url


@contextmanager
def other_page_of(page: Page, settings: Settings, errors: list[str]) -> Iterator[Page]:
    """Give a page of the same browser that knows nothing of the first one, logged in as the user of the settings."""
    other = page.context.browser.new_page(viewport=page.viewport_size)  # type: ignore[union-attr]
    _logged_in(other, settings, errors)
    yield other
    other.close()


def read(page: Page) -> list[dict[str, object]]:
    """Return the charts as they are at this moment."""
    charts: list[dict[str, object]] = page.evaluate(CHARTS)
    return charts


def wait_until_drawn(page: Page, animation_ms: int = 1_500) -> None:
    """Wait until no chart is loading any more, and its animation is over.

    A chart that never draws does not raise: what is read then says so.
    """
    page.wait_for_selector(".dashboard-component-chart-holder")
    with suppress(TimeoutError):
        page.wait_for_function(
            f"() => {{ const charts = ({CHARTS})(); return charts.length > 0 && charts.every("
            "chart => !chart.loading && (chart.drawn || chart.empty || chart.error)) }",
            polling=_POLLING_MS,
        )
    page.wait_for_timeout(animation_ms)


def open_page(page: Page, settings: Settings, slug: str, animation_ms: int = 1_500) -> None:
    """Open a dashboard and wait until it is drawn."""
    page.goto(dashboard_url(settings, slug), wait_until="domcontentloaded")
    wait_until_drawn(page, animation_ms)


def look(page: Page, settings: Settings, slug: str, screenshot: Path | None = None) -> DashboardState:
    """Open a dashboard and return what it shows once it is drawn; keep a picture where a path is given."""
    open_page(page, settings, slug)
    return seen(page, screenshot)


def seen(page: Page, screenshot: Path | None = None) -> DashboardState:
    """Return what the dashboard at hand shows; keep a picture where a path is given."""
    state = DashboardState()
    for found in read(page):
        chart = Chart(**{name: found[name] for name in Chart.__dataclass_fields__})  # type: ignore[arg-type]
        state.charts[chart.title] = chart
        if chart.error:
            state.errors.append(f"{chart.title}: {chart.error}")
    state.filters = page.locator("[data-test=filter-control-name]").all_inner_texts()
    width, needed = page.evaluate("[window.innerWidth, document.documentElement.scrollWidth]")
    if needed > width:
        state.errors.append(f"the page is {needed} px wide in a window of {width}")
    if screenshot:
        screenshot.parent.mkdir(parents=True, exist_ok=True)
        bottom = page.evaluate(
            "Math.max(...[...document.querySelectorAll('.dashboard-component, .dashboard-component-chart-holder')]"
            ".map(holder => holder.getBoundingClientRect().bottom))"
        )
        page.screenshot(path=screenshot, clip={"x": 0, "y": 0, "width": width, "height": bottom + 24})
    return state


def widen(page: Page, width: int) -> None:
    """Make the window so many pixels wide, and wait until the charts are drawn anew."""
    page.set_viewport_size({"width": width, "height": HEIGHT})
    with suppress(TimeoutError):
        page.wait_for_function(FILLED)
    wait_until_drawn(page, animation_ms=500)


def open_dashboard(settings: Settings, slug: str, screenshot: Path | None = None, width: int = 1600) -> DashboardState:
    """Look at a dashboard with a browser of its own; errors are those of the page and of its charts."""
    errors: list[str] = []
    with page_of(settings, errors, width) as page:
        state = look(page, settings, slug, screenshot)
    state.errors[:0] = errors
    return state


def choose(page: Page, native_filter: str, value: str) -> None:
    """Choose a value of a dashboard's filter, named by its identity, and apply it."""
    page.locator(f'[data-test="NATIVE_FILTER-{native_filter}"]').click()
    page.locator(".ant-select-item-option").filter(has_text=value).first.click()
    page.keyboard.press("Escape")
    page.locator('[data-test="filter-bar__apply-button"]').click()


def await_figure(page: Page, title: str, figure: Callable[[], str], timeout_s: float = 60) -> None:
    """Wait until a chart's first line reads what `figure` gives, which may change meanwhile."""

    def pause(seconds: float) -> None:
        page.wait_for_timeout(1000 * seconds)

    @retry(stop=stop_before_delay(timeout_s), wait=wait_fixed(0.5), sleep=pause, reraise=True)
    def agrees() -> None:
        texts = {chart["title"]: str(chart["text"]) for chart in read(page)}
        if (wanted := figure()) != texts.get(title, "").partition("\n")[0]:
            raise AssertionError(f"{title} reads {texts.get(title)!r}, not {wanted!r}")

    agrees()


# the latest of the moments, such as 11-22 10:15:07, in a chart's text
LATEST = f"""
title => {{ const chart = ({CHARTS})().find(chart => chart.title === title);
    return (chart?.text.match(/\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d/g) ?? []).sort().at(-1) ?? '' }}
"""


def latest_of(page: Page, title: str) -> str:
    """Return the latest moment that a chart tells; an empty text where it tells none."""
    return str(page.evaluate(LATEST, title))


def await_later(page: Page, title: str, before: str, timeout_s: float) -> None:
    """Wait until a chart tells a later moment than one before."""
    later = f"([title, before]) => ({LATEST})(title) > before"
    page.wait_for_function(later, arg=[title, before], timeout=timeout_s * 1000)
