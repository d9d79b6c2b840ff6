"""Pipelined loop with one span per message, as the documentation of the OpenTelemetry SDK shows it."""

import uvloop
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from redis.asyncio import Redis

from benchmarks.contenders.harness import CONSUMER, Harness


def run(harness: Harness) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    uvloop.run(_run(harness, provider))
    provider.shutdown()


async def _run(harness: Harness, provider: TracerProvider) -> None:
    job, tracer = harness.job, provider.get_tracer("bench")
    client = Redis.from_url(job.url)
    done: list[bytes] = []
    while not harness.is_finished:
        pipeline = client.pipeline(transaction=False)
        if done:
            pipeline.xack(job.stream, job.group, *done)
        pipeline.xreadgroup(job.group, CONSUMER, {job.stream: ">"}, count=job.batch, block=1000)
        reply = (await pipeline.execute())[-1]
        done = []
        for _, entries in reply:
            for message_id, data in entries:
                attributes = {
                    "messaging.system": "redis",
                    "messaging.operation.name": "process",
                    "messaging.operation.type": "process",
                    "messaging.destination.name": job.stream,
                    "messaging.consumer.group.name": job.group,
                    "messaging.message.id": message_id.decode(),
                    "messaging.client.id": CONSUMER,
                    "server.address": "127.0.0.1",
                }
                with tracer.start_as_current_span(
                    f"process {job.stream}", kind=SpanKind.CONSUMER, attributes=attributes
                ):
                    await harness.handle(data)
                done.append(message_id)
    await client.xack(job.stream, job.group, *done)
    harness.finish()
    await client.aclose()
