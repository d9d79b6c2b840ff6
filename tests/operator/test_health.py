import aiohttp

from streamconsumer.operator.health import Health, serve


async def test_probes_and_metrics_respond() -> None:
    readiness = (False, "waiting for the lists")
    health = Health(queue_depth=lambda: 3, readiness=lambda: readiness)
    health.record_reconcile("success", 0.1)
    server = await serve(health, "127.0.0.1", 0)
    try:
        address = f"http://127.0.0.1:{server.port}"
        async with aiohttp.ClientSession() as client:
            assert (await client.get(f"{address}/livez")).status == 200
            waiting = await client.get(f"{address}/readyz")
            assert (waiting.status, await waiting.text()) == (503, "waiting for the lists\n")
            readiness = (True, "ok")
            assert (await client.get(f"{address}/readyz")).status == 200
            metrics = await (await client.get(f"{address}/metrics")).text()
    finally:
        server.stop()
    assert 'streamconsumer_operator_reconciles_total{outcome="success"} 1.0' in metrics
    assert "streamconsumer_operator_queue_depth 3.0" in metrics
