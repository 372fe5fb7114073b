"""The metrics of several processes, as one: read by each worker, added up by the supervisor.

A family is a list, as JSON: name, type, help, and samples, each a list of name, labels and value.
It needs the extra ``txzmq[prometheus]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from twisted.logger import Logger

__all__ = ["FigureReader", "Total"]

_log = Logger()

#: Families that are of one process and cannot be added up: what it takes of the machine. Each gets
#: a label that says which process it is. By their whole names, since a service may have one that
#: begins in the same way.
_OF_PROCESS: Final = frozenset(
    {
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_cpu_seconds",
        "process_open_fds",
        "process_max_fds",
    }
)
#: Those of Python itself, which are left out.
_OF_PYTHON: Final = frozenset(
    {
        "python_info",
        "python_gc_objects_collected",
        "python_gc_objects_uncollectable",
        "python_gc_collections",
    }
)
#: Types whose values only grow, so that those of processes which have ended count on.
_GROWING: Final = frozenset({"counter", "histogram", "summary"})
#: When a metric was made: the first time counts.
_CREATED: Final = "_created"


class FigureReader:
    """Reads the metrics of this process: txzmq's, and those of prometheus_client's own registry."""

    def __init__(self, collector: Collector, process: str) -> None:
        """
        :param collector: of what is txzmq's.
        :param process: what tells this process from others.
        """
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        self._process = process
        # What the user's collectors have told last, and whether one has failed since.
        self._theirs: list[Any] = []
        self._has_failed = False

    def read(self) -> list[Any]:
        """All families.

        If a collector of prometheus_client's own registry raises something, or tells what is no
        number, that is logged, and the families of that registry are those of the time before.
        """
        own = [self._family(metric) for metric in self._registry.collect()]
        try:
            self._theirs = [self._family(metric) for metric in REGISTRY.collect()]
        except Exception:  # noqa: BLE001 - whatever a user's collector raises
            if not self._has_failed:
                _log.failure(
                    "a collector in the default registry of prometheus_client has failed, so the "
                    "metrics in that registry stay as they were until it works again"
                )
            self._has_failed = True
        else:
            self._has_failed = False
        families: dict[str, Any] = {}
        for family in (*own, *self._theirs):
            families.setdefault(family[0], family)
        return [family for name, family in families.items() if name not in _OF_PYTHON]

    def _family(self, metric: Metric) -> list[Any]:
        own = {"process": self._process} if metric.name in _OF_PROCESS else {}
        samples = [
            [each.name, {**own, **_text(each.labels)}, float(each.value)] for each in metric.samples
        ]
        return [metric.name, metric.type, metric.documentation, samples]


# Any: a user's collector may have labels of any type, whatever the annotations say.
def _text(labels: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in labels.items()}


class _Key(NamedTuple):
    name: str
    labels: tuple[tuple[str, str], ...]


class _Family:
    """A family of several processes."""

    def __init__(self, name: str, kind: str, documentation: str) -> None:
        self.name = name
        self.kind = kind
        self.documentation = documentation
        self.values: dict[_Key, float] = {}

    def add(self, samples: Iterable[Any]) -> None:
        """Add those of a process."""
        for name, labels, value in samples:
            key = _Key(name, tuple(sorted(labels.items())))
            before = self.values.get(key)
            if before is None:
                self.values[key] = value
            elif self.kind in _GROWING and name == f"{self.name}{_CREATED}":
                self.values[key] = min(before, value)
            elif self.kind == "info":
                self.values[key] = value
            else:
                self.values[key] = before + value

    def metric(self) -> Metric:
        """As prometheus_client has it."""
        metric = Metric(self.name, self.documentation, self.kind)
        metric.samples = [
            Sample(key.name, dict(key.labels), value) for key, value in self.values.items()
        ]
        return metric


class Total(Collector):
    """The metrics of all processes.

    What processes have counted that have ended is kept, so that no counter falls.
    """

    def __init__(self) -> None:
        self._living: dict[object, list[Any]] = {}
        self._ended: dict[str, _Family] = {}

    def set(self, process: object, families: list[Any]) -> None:
        """These are the newest of a process.

        :param process: any object, by its identity.
        """
        self._living[process] = families

    def end(self, process: object) -> None:
        """A process has ended: what grows is kept, all else is no more."""
        families = self._living.pop(process, [])
        _add(
            self._ended,
            (family for family in families if family[1] in _GROWING and not _is_own(family)),
        )

    def collect(self) -> Iterator[Metric]:
        """All families."""
        total: dict[str, _Family] = {}
        for families in self._living.values():
            _add(total, families)
        for family in self._ended.values():
            samples = [[key.name, dict(key.labels), value] for key, value in family.values.items()]
            _add(total, [[family.name, family.kind, family.documentation, samples]])
        for family in total.values():
            yield family.metric()


def _is_own(family: list[Any]) -> bool:
    return family[0] in _OF_PROCESS


def _add(total: dict[str, _Family], families: Iterable[list[Any]]) -> None:
    for name, kind, documentation, samples in families:
        family = total.get(name)
        if family is None:
            family = total[name] = _Family(name, kind, documentation)
        if family.kind == kind:  # or a new version of the service has another type of this name
            family.add(samples)
