"""PostgreSQL: the function that claims tasks within an append.

It finds and locks what a worker may have, starts it, and returns the events. So a claim
needs no round trip of its own, and a client that freezes holds nothing up: neither the
tasks that it looked at nor the limits of queues that it counted.

The one transition that it decides, the start of a task, is that of `orchd.tasks.deciding`;
the tests hold both to the same events and rows.
"""

from __future__ import annotations

from typing import Any

from orchd.ledger.derived import PROMOTE_POSTGRESQL
from orchd.ledger.fresh import FRESH_ROW, TOLD_COLUMNS
from orchd.ledger.rows import TASK_COLUMNS, columns
from orchd.tasks.deciding import INSTANT_MAX

CLAIM_FUNCTION = "orchd_claim"
PROMOTED_MAX = 1_000
"""Most timers that one claim promotes."""
LOCKED_MAX = 1_000
"""How many candidates other claims may hold before this one looks no further."""

# What a ready row must be for the claim `c`; `able` are the executors that it may use.
_CAPABLE = """(r.phase = 'execute' AND r.executor = ANY (able)
        OR r.phase = 'verify' AND c.probe IS NULL
          AND r.verifiers::jsonb <@ c.verifiers::jsonb)
      AND (c.queues IS NULL OR r.queue = ANY (c.queues) OR r.queue ~ ANY (c.patterns))"""

# The inner limit and the lateral join leave PostgreSQL one plan, with statistics and
# without: along `ready` in order, one task at a time, until there are enough. The task's
# own columns are asked because a row that changed while it was being locked is checked
# against these conditions again, and its ready row is not.
_SEARCH = """ARRAY(
      SELECT t.id FROM (
        SELECT r.task_id, r.priority, r.ready_at FROM ready AS r
        WHERE {capable}
          AND {queue}
          AND (CASE WHEN c.alone THEN r.crashes >= c.max_crashes
            ELSE r.crashes < c.max_crashes END)
        ORDER BY r.priority DESC, r.ready_at, r.task_id LIMIT {most} + {locked}
      ) AS r CROSS JOIN LATERAL (
        SELECT t.id FROM tasks AS t
        WHERE t.id = r.task_id AND t.status = 'pending'
          AND (t.waiting_reason IS NULL OR t.waiting_until <= c.now)
        FOR UPDATE SKIP LOCKED
      ) AS t LIMIT {most}
    )"""

_FUNCTION = """\
CREATE FUNCTION {name}(
  wish json, changes json, OUT streams text[], OUT versions bigint[], OUT types text[],
  OUT datas text[], OUT metas text[], OUT counters json, OUT answer json
) LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
DECLARE
  c record;
  paused text[];
  narrow text[];
  running json;
  able text[];
  room int;
  queue_name text;
  ids text[];
  crowded boolean;
  deltas json[] := '{{}}';
  answers json[] := '{{}}';
  started text[];
  started_versions bigint[];
  started_datas text[];
  moved json;
  found json;
  fenced_now boolean;
BEGIN
  PERFORM {name}_promote((wish->>'now')::bigint);
  paused := ARRAY(SELECT name FROM queues WHERE queues.paused);
  IF wish->'limits' IS NOT NULL THEN
    running := {name}_room(wish->'limits', changes);
  END IF;

  FOR c IN SELECT * FROM json_to_recordset(wish->'claims') AS w(
    worker text, worker_json text, slots int, now bigint, meta text, executors text[],
    verifiers json, queues text[], patterns text[], probe text, alone boolean,
    max_crashes bigint, brief boolean
  ) LOOP
    -- Whoever fences this worker waits for the end of its claim, and then sees it.
    SELECT fenced INTO fenced_now FROM workers WHERE id = c.worker FOR SHARE;
    IF fenced_now IS NOT FALSE THEN
      answers := answers || json_build_object('fenced', true);
      CONTINUE;
    END IF;
    IF c.probe IS NULL THEN
      able := ARRAY(SELECT e FROM unnest(c.executors) AS e
        WHERE e NOT IN (SELECT name FROM breakers WHERE position <> 'closed'));
    ELSE
      able := ARRAY(SELECT name FROM breakers WHERE name = c.probe
        AND name = ANY (c.executors) AND position = 'half_open' AND worker = c.worker);
    END IF;

    -- A queue with less room than the claim has slots is searched apart.
    narrow := '{{}}';
    IF running IS NOT NULL THEN
      narrow := ARRAY(SELECT key FROM json_each_text(running) WHERE value::int < c.slots);
    END IF;
    ids := {search};
    crowded := false;
    FOREACH queue_name IN ARRAY narrow LOOP
      room := (running->>queue_name)::int;
      CONTINUE WHEN room <= 0 OR queue_name = ANY (paused);
      ids := ids || {search_one};
      crowded := true;
    END LOOP;
    IF crowded THEN
      ids := ARRAY(SELECT task_id FROM ready WHERE task_id = ANY (ids)
        ORDER BY priority DESC, ready_at, task_id LIMIT c.slots);
    END IF;

    WITH before AS (
      SELECT t.*, i.place FROM unnest(ids) WITH ORDINALITY AS i(id, place)
      JOIN tasks AS t ON t.id = i.id
    ), after AS (
      UPDATE tasks AS t SET
        "version" = t."version" + 1, "status" = 'in_progress', "runs" = t."runs" + 1,
        "attempts" = t."attempts" + (t."phase" = 'execute')::int,
        "token" = t."version" + 1, "worker" = c.worker,
        "alone" = t."crashes" >= c.max_crashes, "started_at" = c.now,
        "updated_at" = c.now, "deadline" = d.deadline, "cancel_requested" = false,
        "waiting_reason" = NULL, "waiting_until" = NULL, "waiting_ref" = NULL
      FROM before, LATERAL (
        SELECT CASE WHEN l.micros < {far} - c.now THEN c.now + round(l.micros)::bigint
          WHEN l.micros IS NOT NULL THEN {far} END AS deadline
        FROM (SELECT 1000000 * (CASE before."phase" WHEN 'execute'
          THEN before."execute_timeout_seconds"
          ELSE before."verify_timeout_seconds" END) AS micros) AS l
      ) AS d
      WHERE t.id = before.id
      RETURNING t.id, t."version", t."attempts", t."runs", t."phase", t."deadline",
        t."alone", t."queue", before.place,
        CASE WHEN c.brief AND ({kept}) IS NOT DISTINCT FROM ({fresh})
          THEN json_build_array({told}) ELSE json_build_array({before}) END AS row
    )
    SELECT array_agg('task-' || a.id), array_agg(a."version"), array_agg('{{'
        || (CASE WHEN a."alone" THEN '"alone":true,' ELSE '' END)
        || '"attempt":' || a."attempts"
        || coalesce(',"deadline":' || a."deadline", '')
        || ',"phase":"' || a."phase" || '","run":' || a."runs"
        || ',"token":' || a."version" || ',"worker":' || c.worker_json || '}}'),
      (SELECT json_agg(json_build_object('name', n.name, 'delta', n.delta,
          'items', ARRAY[-1])) FROM (
        SELECT 'queue/' || q."queue" || s.status AS name, s.sign * count(*) AS delta
        FROM after AS q, (VALUES ('/pending', -1), ('/in_progress', 1)) AS s(status, sign)
        GROUP BY q."queue", s.status, s.sign
        UNION ALL SELECT 'events/task.started', count(*) FROM after HAVING count(*) > 0
      ) AS n),
      json_agg(a.row)
    INTO started, started_versions, started_datas, moved, found
    FROM (SELECT * FROM after ORDER BY place) AS a;

    IF started IS NOT NULL THEN
      streams := streams || started;
      versions := versions || started_versions;
      types := types || array_fill('task.started'::text, ARRAY[cardinality(started)]);
      datas := datas || started_datas;
      metas := metas || array_fill(c.meta, ARRAY[cardinality(started)]);
      deltas := deltas || moved;
      IF running IS NOT NULL THEN
        running := (SELECT json_object_agg(n.key, n.value::int - coalesce((
            SELECT m.delta FROM json_to_recordset(moved) AS m(name text, delta int)
            WHERE m.name = 'queue/' || n.key || '/in_progress'), 0))
          FROM json_each_text(running) AS n);
      END IF;
    END IF;
    answers := answers || json_build_object(
      'tasks', found, 'alone_waiting', {alone_waiting});
  END LOOP;

  -- One claim is the rule, and its counters need not be taken apart.
  counters := deltas[1];
  IF cardinality(deltas) > 1 THEN
    counters := (SELECT json_agg(d) FROM unnest(deltas) AS s, json_array_elements(s) AS d);
  END IF;
  answer := array_to_json(answers);
END $$"""

_ALONE_WAITING = """NOT c.alone AND c.probe IS NULL AND (CASE
        WHEN c.max_crashes > 0 THEN EXISTS (SELECT FROM ready AS r
          WHERE r.crashes > 0 AND r.crashes >= c.max_crashes
            AND r.queue <> ALL (paused) AND {capable})
        ELSE EXISTS (SELECT FROM ready AS r
          WHERE r.queue <> ALL (paused) AND {capable}) END)"""

_PROMOTE = """\
CREATE FUNCTION {name}_promote(instant bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
{promote};
END $$"""

# How many tasks of each queue with a limit may still start. Whoever starts one holds the
# limit's row until its commit has changed the counter; whoever ends one only makes room,
# and runs that end in this very commit make room for those that start in it.
_ROOM = """\
CREATE FUNCTION {name}_room(limits json, changes json) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO limits (name) SELECT l.key FROM json_each(limits) AS l ORDER BY l.key
  ON CONFLICT DO NOTHING;
  PERFORM 1 FROM limits AS l WHERE l.name IN (SELECT key FROM json_each(limits))
  ORDER BY l.name FOR UPDATE;
  RETURN (SELECT json_object_agg(l.key, greatest(0, l.value::int
      - coalesce(n.value, 0)
      - coalesce((changes->>('queue/' || l.key || '/in_progress'))::int, 0)))
    FROM json_each_text(limits) AS l
    LEFT JOIN counters AS n ON n.name = 'queue/' || l.key || '/in_progress');
END $$"""


def claim_ddl() -> list[str]:
    """Return the statements that create the functions."""
    name = CLAIM_FUNCTION
    promote = _numbered(PROMOTE_POSTGRESQL, ("instant", str(PROMOTED_MAX)))
    searched = {"capable": _CAPABLE, "locked": LOCKED_MAX}
    others = "r.queue <> ALL (paused) AND r.queue <> ALL (narrow)"
    search = _SEARCH.format(queue=others, most="c.slots", **searched)
    search_one = _SEARCH.format(queue="r.queue = queue_name", most="room", **searched)
    claim = _FUNCTION.format(
        name=name,
        search=search,
        search_one=search_one,
        far=INSTANT_MAX,
        before=columns(TASK_COLUMNS, "before"),
        kept=columns(tuple(FRESH_ROW), "before"),
        fresh=", ".join(map(_literal, FRESH_ROW.values())),
        told=columns(TOLD_COLUMNS, "before"),
        alone_waiting=_ALONE_WAITING.format(capable=_CAPABLE),
    )
    return [
        _PROMOTE.format(name=name, promote=promote),
        _ROOM.format(name=name),
        claim,
    ]


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


def _numbered(statement: str, values: tuple[str, ...]) -> str:
    for value in values:
        statement = statement.replace("?", value, 1)
    return f"  {statement}"
