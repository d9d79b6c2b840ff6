"""A message that cannot be handled, from its handler to the dead letters and back."""

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.handler.outcomes import Reject
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.letters import KEY, dead_letter_store
from tests.processor.recorder import Recorder


async def test_what_a_handler_refuses_is_buried_and_handled_once_it_is_replayed(any_group: Group) -> None:
    mended, recorder = False, Recorder()

    async def handle(data: dict[str, str]) -> None:
        if not mended:
            raise Reject(f"no customer {data['n']}")
        await recorder(data)

    [message_id] = await any_group.add()
    await any_group.start(handle, delivery=Delivery())

    async def is_buried() -> bool:
        return bool(await any_group.client.xlen(KEY))

    await eventually(is_buried)
    await any_group.wait_settled()
    at = dead_letter_store(any_group)
    [letter] = [letter async for letter in at.find()]
    told = letter.failure
    assert (told.reason, told.error_message, told.message_id) == ("Rejected", "no customer 0", message_id)
    assert told.error_type == "streamconsumer.processor.handler.outcomes.Reject"
    assert told.at.startswith("test_journey_to_the_dead_letters.py:")
    mended = True
    new = await at.replay(letter)
    await recorder.wait_until_finished(1)
    await any_group.wait_settled()
    assert recorder.ids == [new]
