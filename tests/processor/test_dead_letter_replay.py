"""A rejected message, from its handler to the dead-letter stream and back by a replay."""

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.handler.outcomes import Reject
from tests.processor.dead_letters.dead_letter_factory import KEY, dead_letter_store
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder


async def test_rejected_message_is_dead_lettered_and_handled_after_its_replay(any_group: Group) -> None:
    is_fixed, recorder = False, Recorder()

    async def handle(data: dict[str, str]) -> None:
        if not is_fixed:
            raise Reject(f"no customer {data['n']}")
        await recorder(data)

    [message_id] = await any_group.add()
    await any_group.start(handle, delivery=Delivery())

    async def is_dead_lettered() -> bool:
        return bool(await any_group.client.xlen(KEY))

    await eventually(is_dead_lettered)
    await any_group.wait_settled()
    store = dead_letter_store(any_group)
    [dead_letter] = [each async for each in store.find()]
    failure = dead_letter.failure
    assert (failure.reason, failure.error_message, failure.message_id) == ("Rejected", "no customer 0", message_id)
    assert failure.error_type == "streamconsumer.processor.handler.outcomes.Reject"
    assert failure.at.startswith("test_dead_letter_replay.py:")
    is_fixed = True
    new_id = await store.replay(dead_letter)
    await recorder.wait_until_finished(1)
    await any_group.wait_settled()
    assert recorder.ids == [new_id]
