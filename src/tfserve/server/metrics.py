"""What Prometheus is told."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tfserve.server.batcher import Batcher
from tfserve.server.schedule import Run

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "tfserve_requests", "Requests answered", ["path", "status"], registry=registry
        )
        seconds = Histogram(
            "tfserve_request_seconds", "Time of a request, by stage: queue, compute, total",
            ["stage"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.queued, self.computing, self.total = map(seconds.labels, ("queue", "compute", "total"))
        self.records = Counter("tfserve_records", "Records answered", registry=registry)
        self.tokens = Counter("tfserve_tokens", "Tokens computed, padding aside", registry=registry)
        self.padding = Counter("tfserve_padding_tokens", "Tokens of padding", registry=registry)
        self.batches = Counter("tfserve_batches", "Batches computed", ["alone"], registry=registry)
        self.rows = Histogram(
            "tfserve_batch_windows", "Windows in a batch", buckets=SIZES, registry=registry
        )
        self.fill = Gauge("tfserve_batch_fill", "Tokens of the last batch over its budget",
                          registry=registry)  # fmt: skip
        self.busy = Counter("tfserve_model_seconds", "Time in the model", registry=registry)

    def watch(self, batcher: Batcher) -> None:
        """Gauges that are read when somebody asks."""

        def gauge(name: str, help: str) -> Gauge:
            return Gauge(f"tfserve_{name}", help, registry=self.registry)

        gauge("queue_windows", "Windows that wait").set_function(
            lambda: batcher.schedule.waiting if batcher.schedule else 0
        )
        gauge("queue_tokens", "Tokens that wait").set_function(
            lambda: batcher.schedule.tokens if batcher.schedule else 0
        )
        gauge("ready", "1 when requests are answered").set_function(lambda: not batcher.failure)
        gauge("worker_starts", "Times that a process with the model was started").set_function(
            lambda: batcher.starts
        )
        gauge("model_memory_bytes", "Resident memory of the process with the model").set_function(
            lambda: _resident(batcher.worker.process.pid) if batcher.worker else 0
        )

    def request(self, path: str, status: int) -> None:
        """A request was answered, whatever with."""
        self.requests.labels(path, str(status)).inc()

    def batch(self, run: Run, seconds: float, budget: int) -> None:
        """A batch was computed."""
        rows, length = run.shape
        tokens = sum(job.length for job in run.jobs)
        self.tokens.inc(tokens)
        self.padding.inc(rows * length - tokens)
        self.batches.labels(str(run.alone).lower()).inc()
        self.rows.observe(rows)
        self.fill.set(rows * length / budget)
        self.busy.inc(seconds)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


def _resident(process: int) -> int:
    """Bytes, where the system tells."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if "VmRSS" in line), 0)
