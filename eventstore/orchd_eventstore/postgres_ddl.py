"""The PostgreSQL side of the schema: triggers, and the function that appends.

The function does the whole append in the database, so that one statement in autocommit
mode, and therefore one round trip, stores a batch. Its order is what makes positions
dense and in commit order without anybody waiting on a frozen client:

1. the rows of the projections, each table sorted by key; losers drop out here;
2. the head, locked last, so that whoever holds it needs nothing more from anybody;
3. the commit, the events, the counters, the hint.

Its plans are made once, perhaps while the tables are still empty, and kept. The settings of
the function make sure that they are the plans for large tables all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql

from orchd_eventstore.projection import Projection

NOTIFY_CHANNEL = "eventstore"
_DIALECT: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # untyped there


def postgres_triggers(forbidden: Iterable[tuple[str, str]]) -> list[str]:
    """Return the statements that forbid changes of what is written once."""
    statements = [
        "CREATE FUNCTION eventstore_refuse() RETURNS trigger LANGUAGE plpgsql AS $$\n"
        "BEGIN\n"
        "  RAISE EXCEPTION '% is written once: % refused', TG_TABLE_NAME, TG_OP;\n"
        "END $$"
    ]
    pairs = list(forbidden)
    pairs += [("events", "TRUNCATE"), ("commits", "TRUNCATE")]
    for table, verb in pairs:
        statements.append(
            f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table}\n"
            "FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()"
        )
    return statements


def append_signature(projections: tuple[Projection, ...]) -> str:
    """Return the call of the function with a placeholder per parameter."""
    count = 5 + 3 * len(projections)
    return f"SELECT eventstore_append({', '.join(['%s'] * count)})"


def append_function(projections: tuple[Projection, ...]) -> str:
    """Return the statement that creates the function for these projections."""
    parameters = ["command text", "new_events json", "new_counters json"]
    parameters += ["new_blobs json", "bare boolean"]
    for projection in projections:
        name = projection.name
        parameters += [
            f"{name}_inserts json",
            f"{name}_updates json",
            f"{name}_keys text[]",
        ]
    rows = "\n".join(_rows(projection) for projection in projections)
    return _FUNCTION.format(
        parameters=", ".join(parameters), rows=rows, channel=NOTIFY_CHANNEL
    )


def _rows(projection: Projection) -> str:
    table, key = projection.table.name, projection.key
    columns = ", ".join(_quoted(name) for name in projection.columns)
    typed = ", ".join(f"{_quoted(c)} {_type(projection, c)}" for c in projection.columns)
    changed = ", ".join(f"{_quoted(c)} = r.{_quoted(c)}" for c in projection.mutable)
    changed_typed = ", ".join(
        f"{_quoted(c)} {_type(projection, c)}" for c in (key, *projection.mutable)
    )
    return _ROWS.format(
        name=projection.name,
        table=table,
        key=_quoted(key),
        columns=columns,
        typed=typed,
        changed=changed,
        changed_typed=changed_typed,
    )


def _type(projection: Projection, column: str) -> str:
    return str(projection.table.c[column].type.compile(_DIALECT))


def _quoted(name: str) -> str:
    return f'"{name}"'


_ROWS = """\
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
  END IF;
  IF {name}_updates IS NOT NULL THEN
    -- Rows are locked in the order of their keys before any is changed.
    PERFORM 1 FROM {table} WHERE {key} = ANY ({name}_keys) ORDER BY {key} FOR UPDATE;
    WITH stored AS (
      UPDATE {table} AS t SET {changed}
      FROM json_to_recordset({name}_updates)
        AS r(item int, expected bigint, {changed_typed})
      WHERE t.{key} = r.{key} AND t."version" = r.expected
      RETURNING r.item
    )
    SELECT won || coalesce(array_agg(stored.item), '{{}}') INTO won FROM stored;
  END IF;"""

_FUNCTION = """\
CREATE FUNCTION eventstore_append({parameters})
RETURNS json LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
  won int[] := '{{}}';
  head record;
  stamp timestamptz;
  added int;
  digest text;
  versions json;
BEGIN
  IF new_blobs IS NOT NULL THEN
    INSERT INTO blobs (hash, size, encoding, body)
    SELECT hash, size, encoding, decode(body, 'base64')
    FROM json_to_recordset(new_blobs) AS b(hash text, size bigint, encoding text, body text)
    ORDER BY hash
    ON CONFLICT DO NOTHING;
  END IF;
{rows}
  IF NOT bare AND won = '{{}}' THEN
    -- A fresh statement sees the commit that made the items lose, if it was this command.
    RETURN json_build_object(
      'won', won,
      'repeated', EXISTS (SELECT FROM commits WHERE command_id = command));
  END IF;

  SELECT position, hash, recorded_at INTO STRICT head
  FROM log_head WHERE id = 1 FOR UPDATE;
  stamp := greatest(clock_timestamp(), head.recorded_at);

  IF bare THEN
    SELECT won || coalesce(array_agg(b.item), '{{}}') INTO won
    FROM (
      SELECT DISTINCT e.item, e.stream, e.expected
      FROM json_to_recordset(new_events) AS e(item int, stream text, expected bigint)
      WHERE e.expected IS NOT NULL
    ) AS b
    WHERE b.expected = -1 OR b.expected = (
      SELECT coalesce(max(s.version), 0) FROM events AS s WHERE s.stream = b.stream);
    IF won = '{{}}' THEN
      RETURN json_build_object(
        'won', won,
        'repeated', EXISTS (SELECT FROM commits WHERE command_id = command));
    END IF;
  END IF;

  WITH input AS (
    SELECT i.*, row_number() OVER (ORDER BY i.place) AS n
    FROM ROWS FROM (json_to_recordset(new_events) AS (
      item int, stream text, version bigint, expected bigint,
      type text, data text, meta text
    )) WITH ORDINALITY AS i(item, stream, version, expected, type, data, meta, place)
    WHERE i.item = ANY (won)
  ), placed AS (
    SELECT head.position + n AS position, item, stream, type, data, meta,
      CASE WHEN expected = -1
        THEN version + (SELECT coalesce(max(s.version), 0) FROM events AS s
                        WHERE s.stream = input.stream)
        ELSE version END AS version
    FROM input
  ), stored AS (
    INSERT INTO events (position, stream, version, type, data, meta, recorded_at)
    SELECT position, stream, version, type, data, meta, stamp FROM placed ORDER BY position
  )
  SELECT count(*), string_agg(
    octet_length(position::text) || ':' || position || ',' ||
    octet_length(stream) || ':' || stream || ',' ||
    octet_length(version::text) || ':' || version || ',' ||
    octet_length(type) || ':' || type || ',' ||
    octet_length(data) || ':' || data || ',' ||
    octet_length(meta) || ':' || meta || ',', '' ORDER BY position),
    (SELECT json_agg(json_build_array(item, first_position, last_position, last_version))
     FROM (SELECT item, min(position) AS first_position, max(position) AS last_position,
             max(version) AS last_version
           FROM placed GROUP BY item) AS spans)
  INTO added, digest, versions FROM placed;

  digest := octet_length(command) || ':' || command || ',' ||
    octet_length((extract(epoch FROM stamp) * 1000000)::bigint::text) || ':' ||
    (extract(epoch FROM stamp) * 1000000)::bigint || ',' || digest;
  digest := encode(sha256(convert_to(
    head.hash || encode(sha256(convert_to(digest, 'UTF8')), 'hex'), 'UTF8')), 'hex');
  INSERT INTO commits (last_position, command_id, events, recorded_at, hash)
  VALUES (head.position + added, command, added, stamp, digest);
  UPDATE log_head SET position = head.position + added, hash = digest, recorded_at = stamp
  WHERE id = 1;

  INSERT INTO counters (name, value)
  SELECT name, sum(delta)
  FROM json_to_recordset(new_counters) AS c(item int, name text, delta bigint)
  WHERE c.item = ANY (won)
  GROUP BY name ORDER BY name
  ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value;

  PERFORM pg_notify('{channel}', (head.position + added)::text);
  RETURN json_build_object(
    'won', won, 'repeated', false, 'spans', versions,
    'first', head.position + 1, 'last', head.position + added,
    'at', (extract(epoch FROM stamp) * 1000000)::bigint);
END $$"""
