"""Hand-written OTLP encoding, decoded with the official classes."""

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from streamconsumer.processor.telemetry.otlp_encoding import ExportRequest, any_value, attributes
from streamconsumer.processor.telemetry.spans import RecordedSpan


def test_values_of_all_types_decode_with_the_official_classes() -> None:
    values = {"a": "é\udcff", "b": -1, "c": 2**62, "d": 0.5, "e": [True, "x"], "f": {"g": 1}, "h": b"\xff", "i": None}
    span = RecordedSpan(attributes(values), bytes(16), bytes(8), 1)
    request = ExportTraceServiceRequest.FromString(
        ExportRequest({"r": "s" * 300}, "scope", "1", "url").encode([span.encode()])
    )
    [resource_spans] = request.resource_spans
    [scope_spans] = resource_spans.scope_spans
    [decoded] = scope_spans.spans
    assert resource_spans.resource.attributes[0].value.string_value == "s" * 300
    assert (scope_spans.scope.name, scope_spans.schema_url) == ("scope", "url")
    by_key = {pair.key: pair.value for pair in decoded.attributes}
    assert by_key["a"].string_value == "é\\udcff"
    assert (by_key["b"].int_value, by_key["c"].int_value, by_key["d"].double_value) == (
        -1,
        2**62,
        0.5,
    )
    assert [each.WhichOneof("value") for each in by_key["e"].array_value.values] == [
        "bool_value",
        "string_value",
    ]
    assert by_key["f"].kvlist_value.values[0].value.int_value == 1
    assert (by_key["h"].bytes_value, by_key["i"].string_value) == (b"\xff", "None")
    assert any_value(True) != any_value(1)
