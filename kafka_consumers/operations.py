"""The entrance of all topics at a moment, for the operators' view."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaException

from kafka_consumers.entrance import COUNTED
from kafka_consumers.landing import PROCESSES
from selfgen.clients import kafka, mongo
from selfgen.performance import Totals
from selfgen.settings import Settings

#: How many looks the trend covers.
_HISTORY = 60


class Watch:
    """Looks at the topics again and again, so that rates and trends can be told."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = kafka.admin(settings)
        self._database = mongo.database(settings)
        self._before: dict[str, tuple[float, Totals]] = {}
        #: messages a second of the last looks, by topic
        self.history: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_HISTORY))
        self._lags: defaultdict[str, deque[tuple[float, int]]] = defaultdict(lambda: deque(maxlen=_HISTORY))

    def look(self) -> list[dict[str, Any]]:
        """Return a row for each topic.

        Returns
        -------
        list of dict
            topic, rate (messages/s), bytes_rate, refused_rate and duplicates_rate (1/s), lag, lag_trend (messages/s),
            delay_p50, delay_p95, delay_p99, delay_max (s, of the last reports), refused and messages in all,
            last_message (when), consumers (alive), alarms (texts). A rate is null at the first look.
        """
        progress: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for document in self._database["landing_progress"].find():
            progress[document["topic_id"]].append(document)
        return [self._row(topic, progress[topic]) for topic in PROCESSES]

    def _row(self, topic: str, partitions: list[dict[str, Any]]) -> dict[str, Any]:
        now = time.monotonic()
        totals = Totals()
        for document in partitions:
            totals = totals + Totals.of(document)
        done = {document["partition"]: document["next_offset"] for document in partitions}
        ends = kafka.end_offsets(self._settings, topic)
        lag = sum(max(end - done.get(number, 0), 0) for number, end in ends.items())
        rates = self._rates(topic, now, totals)
        if rates["rate"] is not None:
            self.history[topic].append(rates["rate"])
        lags = self._lags[topic]
        lags.append((now, lag))
        reports = [document["last_report"] for document in partitions if "last_report" in document]
        return {
            "topic": topic,
            **rates,
            "lag": lag,
            "lag_trend": (lag - lags[0][1]) / (now - lags[0][0]) if len(lags) > 1 else 0.0,
            **{
                name: max((report[name] for report in reports if report[name] is not None), default=None)
                for name in ("delay_p50", "delay_p95", "delay_p99", "delay_max")
            },
            "messages": totals.messages,
            "refused": totals.rejected,
            "last_message": max((document["at"] for document in partitions if "at" in document), default=None),
            "consumers": self._members(topic),
            "alarms": self._alarms(topic, partitions),
            "at": datetime.now(UTC),
        }

    def _rates(self, topic: str, now: float, totals: Totals) -> dict[str, float | None]:
        names = {"rate": "messages", "bytes_rate": "bytes", "refused_rate": "rejected", "duplicates_rate": "duplicates"}
        before = self._before.get(topic)
        self._before[topic] = (now, totals)
        if before is None:
            return dict.fromkeys(names)
        seconds = max(now - before[0], 1e-9)
        return {rate: (getattr(totals, name) - getattr(before[1], name)) / seconds for rate, name in names.items()}

    def _members(self, topic: str) -> list[str]:
        group = PROCESSES[topic]
        try:
            described = self._admin.describe_consumer_groups([group])[group].result()
        except KafkaException:
            return []
        return sorted(member.client_id for member in described.members)

    def _alarms(self, topic: str, partitions: list[dict[str, Any]]) -> list[str]:
        """Return the texts of the alarms that are raised and not cleared."""
        identities = [
            f"{document['_id']}|{code}|{state['since_ms']:013d}|raised"
            for document in partitions
            for code, state in document.get("alarms", {}).items()
            if code != COUNTED and state["raised"]
        ]
        found = (self._database["topic_alarm"].find_one({"_id": identity}) for identity in identities)
        return [alarm["text_alarm"] for alarm in found if alarm]
