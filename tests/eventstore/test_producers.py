"""A producer adds to a batch within its transaction, from what it finds in the database."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from orchd_eventstore import (
    Appended,
    Conflict,
    EventStore,
    Execute,
    Produced,
    Rejected,
    creation,
    schema,
)
from support.eventstores import THINGS, bare, connected, metadata, open_store, rows
from support.eventstores import thing as thing_item

# It makes the thing that is wished for, unless it is there, and tells what the batch added
# to the counter `made`.
FUNCTION = """\
CREATE FUNCTION make_thing(
  wish json, changes json, OUT streams text[], OUT versions bigint[], OUT types text[],
  OUT datas text[], OUT metas text[], OUT counters json, OUT answer json
) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO things (id, version, amount, made_by)
  VALUES (wish->>'name', 1, 1, 'producer') ON CONFLICT DO NOTHING;
  answer := json_build_object('made', changes->'made');
  IF FOUND THEN
    streams := ARRAY['thing-' || (wish->>'name')];
    versions := ARRAY[1];
    types := ARRAY['thing.made'];
    datas := ARRAY['{}'];
    metas := ARRAY['{}'];
    counters := '[{"name": "made", "delta": 1, "items": [-1]}]';
  END IF;
END $$"""


class Maker:
    """Wishes for a thing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def wish(self) -> str:
        return json.dumps({"name": self.name})

    def produce(self, execute: Execute, changes: Mapping[str, int]) -> Produced:
        answer = {"made": changes.get("made")}
        if execute("SELECT 1 FROM things WHERE id = ?", (self.name,)):
            return Produced(items=(), answer=answer)
        item = thing_item(self.name, made_by="producer", counters={"made": 1})
        return Produced(items=[item], answer=answer)


@pytest.fixture
def making(database_url: str) -> Iterator[EventStore]:
    """A store whose database has the producer."""
    with connected(database_url) as connection:
        metadata.create_all(connection)
        schema.metadata.create_all(connection)
        dialect = connection.dialect.name
        creation.execute_all(connection, creation.ddl(dialect, [THINGS], "make_thing"))
        if dialect == "postgresql":
            creation.execute_all(connection, [FUNCTION])
    opened = open_store(database_url)
    yield opened
    opened.close()


def answered(answer: Any) -> Any:
    """Return a producer's answer, which PostgreSQL gives as JSON."""
    return answer if isinstance(answer, dict) else json.loads(bytes(answer))


def streams(store: EventStore) -> list[str]:
    return [each.stream for each in store.read_all()]


def test_what_it_adds_is_in_the_same_commit(making: EventStore) -> None:
    items = [thing_item("a", counters={"made": 1}), bare("s")]
    commit = making.append(items, command_id="c", producer=Maker("b"))
    assert [type(outcome) for outcome in commit.outcomes] == [Appended, Appended]
    assert answered(commit.answer) == {"made": 1}
    assert streams(making) == ["thing-a", "s", "thing-b"]
    assert making.counters()["made"] == 2
    assert rows(making)["b"]["made_by"] == "producer"
    assert (commit.last_position, making.verify().ok) == (3, True)
    assert len(making.read_commit("c") or ()) == 3


def test_it_may_be_all_that_there_is(making: EventStore) -> None:
    commit = making.append((), command_id="c1", producer=Maker("a"))
    assert (commit.outcomes, streams(making)) == ((), ["thing-a"])
    nothing = making.append((), command_id="c2", producer=Maker("a"))
    assert (nothing.last_position, nothing.repeated) == (None, False)
    assert making.read_commit("c2") is None


def test_it_sees_what_the_winners_changed(making: EventStore) -> None:
    making.append([thing_item("taken")], command_id="c1")
    items = [
        thing_item("taken", counters={"made": 5}),
        thing_item("a", counters={"made": 2}),
    ]
    commit = making.append(items, command_id="c2", producer=Maker("a"))
    assert [type(outcome) for outcome in commit.outcomes] == [Conflict, Appended]
    assert answered(commit.answer) == {"made": 2}
    assert streams(making) == ["thing-taken", "thing-a"]


def test_it_adds_although_every_item_lost(making: EventStore) -> None:
    making.append([thing_item("taken")], command_id="c1")
    commit = making.append([thing_item("taken")], command_id="c2", producer=Maker("b"))
    assert commit.outcomes == (Conflict(),)
    assert streams(making) == ["thing-taken", "thing-b"]


def test_a_repeated_command_does_not_ask_it(making: EventStore) -> None:
    first = making.append([bare("s")], command_id="c", producer=Maker("a"))
    again = making.append([bare("s")], command_id="c", producer=Maker("b"))
    assert (again.repeated, again.outcomes) == (True, first.outcomes)
    assert streams(making) == ["s", "thing-a"]


def test_a_bad_item_does_not_keep_it_from_adding(making: EventStore) -> None:
    items = [thing_item("bad", amount=-1), bare("s")]
    for _ in range(2):
        commit = making.append(items, command_id="c", producer=Maker("a"))
        assert [type(outcome) for outcome in commit.outcomes] == [Rejected, Appended]
    assert streams(making) == ["s", "thing-a"]
    assert making.verify().ok
