"""The PostgreSQL side of the schema: triggers, and the function that appends.

The function does the whole append in the database, so that one statement in autocommit
mode, and therefore one round trip, stores a batch. Its order is what makes positions
dense and in commit order without anybody waiting on a frozen client:

1. the rows of the projections, each table sorted by key; losers drop out here;
2. what the producer adds, a function of whoever uses the store;
3. the head, locked last, so that whoever holds it needs nothing more from anybody;
4. the commit, the events, the counters, the hint.

It is called by a procedure that commits what it did. A statement alone does not commit:
the server waits for the client's word that the batch ends, and would hold the head as long
as a client is frozen, or cut off, between the two.

Its plans are made once, perhaps while the tables are still empty, and kept. The settings of
the function make sure that they are the plans for large tables all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchd_eventstore.projection import Projection

NOTIFY_CHANNEL = "eventstore"


def postgres_triggers(forbidden: Iterable[tuple[str, str]]) -> list[str]:
    """Return the statements that forbid changes of what is written once."""
    statements = [
        "CREATE FUNCTION eventstore_refuse() RETURNS trigger LANGUAGE plpgsql AS $$\n"
        "BEGIN\n"
        "  RAISE EXCEPTION '% is written once: % refused', TG_TABLE_NAME, TG_OP;\n"
        "END $$"
    ]
    pairs = list(forbidden)
    pairs += [(table, "TRUNCATE") for table in ("events", "commits", "erasures")]
    for table, verb in pairs:
        statements.append(
            f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table}\n"
            "FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()"
        )
    return statements


def postgres_erasure_trigger(kept: Iterable[str]) -> list[str]:
    """Return the statements that let nobody change an event but to erase its data."""
    new, old = (", ".join(f"{row}.{column}" for column in kept) for row in ("NEW", "OLD"))
    return [
        "CREATE FUNCTION eventstore_erase() RETURNS trigger LANGUAGE plpgsql AS $$\n"
        "BEGIN\n"
        f"  IF ({new})\n    IS NOT DISTINCT FROM ({old})\n"
        "    AND EXISTS (SELECT FROM erasures"
        " WHERE position = OLD.position AND data = NEW.data)\n"
        "  THEN\n"
        "    RETURN NEW;\n"
        "  END IF;\n"
        "  RAISE EXCEPTION 'events is written once: UPDATE refused';\n"
        "END $$",
        "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events\n"
        "FOR EACH ROW EXECUTE FUNCTION eventstore_erase()",
    ]


PARAMETERS = (
    "command text",
    "item_count int",
    "new_events json",
    "new_counters json",
    "new_blobs json",
    "bare boolean",
    "wish json",
)
ROW_PARAMETERS = ("inserts json", "updates json", "narrow json", "keys text[]")
"""What each projection adds to the parameters, after its name."""


def append_call(projections: tuple[Projection, ...]) -> str:
    """Return the call that appends and commits, with a placeholder per parameter."""
    count = len(_parameters(projections))
    return f"CALL eventstore_append_and_commit({', '.join(['%s'] * count)}, NULL)"


def append_procedure(projections: tuple[Projection, ...]) -> str:
    """Return the statement that creates the procedure which commits an append."""
    parameters = _parameters(projections)
    return _PROCEDURE.format(
        parameters=", ".join(parameters),
        names=", ".join(parameter.split()[0] for parameter in parameters),
    )


def append_function(projections: tuple[Projection, ...], producer: str | None) -> str:
    """Return the statement that creates the function for these projections."""
    parameters = _parameters(projections)
    rows = "\n".join(_rows(projection) for projection in projections)
    produced = "" if producer is None else _PRODUCED.format(producer=producer)
    return _FUNCTION.format(
        parameters=", ".join(parameters),
        rows=rows,
        produced=produced,
        channel=NOTIFY_CHANNEL,
    )


def _parameters(projections: tuple[Projection, ...]) -> list[str]:
    named = [f"{p.name}_{each}" for p in projections for each in ROW_PARAMETERS]
    return [*PARAMETERS, *named]


def _rows(projection: Projection) -> str:
    name, table, key = projection.name, projection.table.name, _quoted(projection.key)
    parts = [
        _INSERT.format(
            name=name,
            table=table,
            key=key,
            columns=", ".join(_quoted(column) for column in projection.columns),
            typed=_typed(projection, projection.columns),
        ),
        _LOCK.format(name=name, table=table, key=key),
    ]
    updates = {"updates": projection.mutable, "narrow": projection.narrow}
    for source, columns in updates.items():
        if columns:
            parts.append(_update(projection, f"{name}_{source}", columns))
    return "\n".join(parts)


def _update(projection: Projection, source: str, columns: tuple[str, ...]) -> str:
    return _UPDATE.format(
        source=source,
        table=projection.table.name,
        key=_quoted(projection.key),
        changed=", ".join(f"{_quoted(c)} = r.{_quoted(c)}" for c in columns),
        typed=_typed(projection, (projection.key, *columns)),
    )


def _typed(projection: Projection, columns: tuple[str, ...]) -> str:
    kinds = {column.name: column.kind for column in projection.table.columns}
    return ", ".join(f"{_quoted(c)} {kinds[c]}" for c in columns)


def _quoted(name: str) -> str:
    return f'"{name}"'


_INSERT = """\
  IF {name}_inserts IS NOT NULL THEN
    WITH input AS (
      SELECT * FROM json_to_recordset({name}_inserts) AS r(item int, {typed})
    ), stored AS (
      INSERT INTO {table} ({columns})
      SELECT {columns} FROM input ORDER BY {key}
      ON CONFLICT DO NOTHING
      RETURNING {key} AS stored_key
    )
    -- IS TRUE keeps this a look-up in a hash table instead of a join.
    SELECT won || coalesce(array_agg(input.item), '{{}}') INTO won
    FROM input WHERE (input.{key} IN (SELECT stored_key FROM stored)) IS TRUE;
  END IF;"""

_LOCK = """\
  IF {name}_keys IS NOT NULL THEN
    -- Two statements follow, so their rows are locked in the order of the keys first.
    PERFORM 1 FROM {table} WHERE {key} = ANY ({name}_keys) ORDER BY {key} FOR UPDATE;
  END IF;"""

# The rows come sorted by key, and the plan looks them up one by one.
_UPDATE = """\
  IF {source} IS NOT NULL THEN
    WITH stored AS (
      UPDATE {table} AS t SET {changed}
      FROM json_to_recordset({source}) AS r(item int, expected bigint, {typed})
      WHERE t.{key} = r.{key} AND t."version" = r.expected
      RETURNING r.item
    )
    SELECT won || coalesce(array_agg(stored.item), '{{}}') INTO won FROM stored;
  END IF;"""

_PRODUCED = """\
  IF wish IS NOT NULL THEN
    SELECT p.streams, p.versions, p.types, p.datas, p.metas, p.counters, p.answer
    INTO more_streams, more_versions, more_types, more_datas, more_metas, more_counters,
      answered
    FROM {producer}(wish, (
      SELECT json_object_agg(c.name, c.delta) FROM (
        SELECT name, sum(delta * (CASE WHEN all_won THEN cardinality(items)
          ELSE (SELECT count(*) FROM unnest(items) AS i WHERE i = ANY (won)) END)) AS delta
        FROM json_to_recordset(new_counters) AS c(name text, delta bigint, items int[])
        GROUP BY name
      ) AS c
    )) AS p;
  END IF;
"""

_FUNCTION = """\
CREATE FUNCTION eventstore_append({parameters})
RETURNS text LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
  won int[] := '{{}}';
  all_won boolean;
  new_items int[];
  new_expected bigint[];
  new_streams text[];
  new_versions bigint[];
  new_types text[];
  new_datas text[];
  new_metas text[];
  more_streams text[];
  more_versions bigint[];
  more_types text[];
  more_datas text[];
  more_metas text[];
  more_counters json;
  answered json;
  head record;
  stamp timestamptz;
  instant bigint;
  added int;
  digest text;
  versions json;
BEGIN
  IF wish IS NOT NULL AND EXISTS (SELECT FROM commits WHERE command_id = command) THEN
    RETURN '{{"repeated":true}}';
  END IF;
  IF new_blobs IS NOT NULL THEN
    INSERT INTO blobs (hash, size, encoding, body)
    SELECT hash, size, encoding, decode(body, 'base64')
    FROM json_to_recordset(new_blobs) AS b(hash text, size bigint, encoding text, body text)
    ORDER BY hash
    ON CONFLICT DO NOTHING;
  END IF;
{rows}
  all_won := cardinality(won) = item_count;
{produced}
  IF NOT bare AND won = '{{}}' AND more_streams IS NULL THEN
    -- A fresh statement sees the commit that made the items lose, if it was this command.
    RETURN json_build_object('won', won, 'answer', answered,
      'repeated', EXISTS (SELECT FROM commits WHERE command_id = command));
  END IF;

  SELECT position, hash, recorded_at INTO STRICT head
  FROM log_head WHERE id = 1 FOR UPDATE;
  stamp := greatest(clock_timestamp(), head.recorded_at);
  instant := (extract(epoch FROM stamp) * 1000000)::bigint;

  IF bare THEN
    SELECT won || coalesce(array_agg(b.item), '{{}}') INTO won
    FROM (
      SELECT DISTINCT e.item, e.stream, e.expected
      FROM json_to_recordset(new_events) AS e(item int, stream text, expected bigint)
      WHERE e.expected IS NOT NULL
    ) AS b
    WHERE b.expected = -1 OR b.expected = (
      SELECT coalesce(max(s.version), 0) FROM events AS s WHERE s.stream = b.stream);
    all_won := cardinality(won) = item_count;
    IF won = '{{}}' AND more_streams IS NULL THEN
      RETURN json_build_object('won', won, 'answer', answered,
        'repeated', EXISTS (SELECT FROM commits WHERE command_id = command));
    END IF;
  END IF;

  -- A function scan gives its rows in order, and these aggregates take them as they come.
  SELECT array_agg(e.item), array_agg(e.expected), array_agg(e.stream),
    array_agg(e.version), array_agg(e.type), array_agg(e.data), array_agg(e.meta)
  INTO new_items, new_expected, new_streams, new_versions, new_types, new_datas,
    new_metas
  FROM json_to_recordset(new_events) AS e(
    item int, stream text, version bigint, expected bigint, type text, data text, meta text
  )
  WHERE all_won OR e.item = ANY (won);

  WITH placed AS (
    SELECT head.position + e.place AS position, e.item, e.stream, e.expected, e.type,
      e.data, e.meta,
      CASE WHEN e.expected = -1
        THEN e.version + (SELECT coalesce(max(s.version), 0) FROM events AS s
                          WHERE s.stream = e.stream)
        ELSE e.version END AS version
    FROM unnest(new_streams || more_streams, new_versions || more_versions,
      new_types || more_types, new_datas || more_datas, new_metas || more_metas,
      new_items, new_expected
    ) WITH ORDINALITY AS e(stream, version, type, data, meta, item, expected, place)
  ), stored AS (
    INSERT INTO events (position, stream, version, type, data, meta, recorded_at)
    SELECT position, stream, version, type, data, meta, stamp FROM placed
  )
  SELECT count(*), string_agg(
    octet_length(position::text) || ':' || position || ',' ||
    octet_length(stream) || ':' || stream || ',' ||
    octet_length(version::text) || ':' || version || ',' ||
    octet_length(type) || ':' || type || ',64:' ||
    encode(sha256(convert_to(data, 'UTF8')), 'hex') || ',' ||
    octet_length(meta) || ':' || meta || ',', '' ORDER BY position),
    json_agg(json_build_array(item, version)) FILTER (WHERE expected = -1)
  INTO added, digest, versions FROM placed;

  digest := '1:2,' || octet_length(command) || ':' || command || ',' ||
    octet_length(instant::text) || ':' || instant || ',' || digest;
  digest := encode(sha256(convert_to(
    head.hash || encode(sha256(convert_to(digest, 'UTF8')), 'hex'), 'UTF8')), 'hex');
  INSERT INTO commits (last_position, command_id, events, recorded_at, hash, rules)
  VALUES (head.position + added, command, added, stamp, digest, 2);
  UPDATE log_head SET position = head.position + added, hash = digest, recorded_at = stamp
  WHERE id = 1;

  INSERT INTO counters (name, value)
  SELECT c.name, sum(c.delta) FROM (
    SELECT name, delta * (CASE WHEN all_won THEN cardinality(items)
      ELSE (SELECT count(*) FROM unnest(items) AS i WHERE i = ANY (won)) END) AS delta
    FROM json_to_recordset(new_counters) AS c(name text, delta bigint, items int[])
    UNION ALL
    SELECT name, delta * cardinality(items)
    FROM json_to_recordset(more_counters) AS c(name text, delta bigint, items int[])
  ) AS c
  GROUP BY c.name HAVING sum(c.delta) <> 0 ORDER BY c.name
  ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value;

  PERFORM pg_notify('{channel}', (head.position + added)::text);
  RETURN json_build_object(
    'won', CASE WHEN all_won THEN NULL ELSE won END, 'versions', versions,
    'first', head.position + 1, 'last', head.position + added, 'at', instant,
    'answer', answered);
END $$"""

_PROCEDURE = """\
CREATE PROCEDURE eventstore_append_and_commit({parameters}, INOUT answer text)
LANGUAGE plpgsql
AS $$
BEGIN
  answer := eventstore_append({names});
  COMMIT;
END $$"""
