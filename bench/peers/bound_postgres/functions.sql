-- The commits of the bound: rows first, the head last, as in orchd's own function.

-- Gives events their positions, chains the commit and moves the head.
CREATE FUNCTION bound_commit(
  command text, meta_text text, streams text[], versions bigint[], types text[],
  datas text[], names text[], deltas bigint[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  head record;
  stamp timestamptz;
  instant text;
  added int := cardinality(streams);
  frame text;
  digest text;
BEGIN
  SELECT position, hash, recorded_at INTO STRICT head FROM log_head WHERE id = 1 FOR UPDATE;
  stamp := greatest(clock_timestamp(), head.recorded_at);
  instant := ((extract(epoch FROM stamp) * 1000000)::bigint)::text;
  WITH placed AS (
    SELECT head.position + e.place AS position, e.stream, e.version, e.type, e.data
    FROM unnest(streams, versions, types, datas) WITH ORDINALITY
      AS e(stream, version, type, data, place)
  ), stored AS (
    INSERT INTO events (position, stream, version, type, data, meta, recorded_at)
    SELECT position, stream, version, type, data, meta_text, stamp
    FROM placed ORDER BY position
  )
  SELECT string_agg(
    length(position::text) || ':' || position || ',' ||
    octet_length(stream) || ':' || stream || ',' ||
    length(version::text) || ':' || version || ',' ||
    octet_length(type) || ':' || type || ',64:' ||
    encode(sha256(convert_to(data, 'UTF8')), 'hex') || ',' ||
    octet_length(meta_text) || ':' || meta_text || ',', '' ORDER BY position)
  INTO frame FROM placed;
  frame := '1:2,' || octet_length(command) || ':' || command || ',' ||
    length(instant) || ':' || instant || ',' || frame;
  digest := encode(sha256(convert_to(
    head.hash || encode(sha256(convert_to(frame, 'UTF8')), 'hex'), 'UTF8')), 'hex');
  INSERT INTO commits (last_position, command_id, events, recorded_at, hash, rules)
  VALUES (head.position + added, command, added, stamp, digest, 2);
  UPDATE log_head SET position = head.position + added, hash = digest, recorded_at = stamp
  WHERE id = 1;
  INSERT INTO counters (name, value)
  SELECT n.name, n.delta FROM unnest(names, deltas) AS n(name, delta)
  WHERE n.delta <> 0 ORDER BY n.name
  ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value;
  PERFORM pg_notify('eventstore', (head.position + added)::text);
END $$;

CREATE FUNCTION bound_submit(
  command text, meta_text text, instant bigint, attempts bigint, ids text[],
  descriptions text[], payloads text[], hashes text[], datas text[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  added bigint := cardinality(ids);
BEGIN
  INSERT INTO tasks (id, version, namespace, status, phase, queue, priority, executor,
    verifiers, description, payload, body_hash, max_attempts, created_at, updated_at,
    run_at, round, runs, attempts, crashes, deferrals, verify_errors, passed_verifiers,
    alone, cancel_requested)
  SELECT i.id, 1, 'default', 'pending', 'execute', 'default', 0, i.description, '[]',
    i.description, i.payload, i.hash, attempts, instant, instant, instant, 1, 0, 0, 0, 0,
    0, '[]', false, false
  FROM unnest(ids, descriptions, payloads, hashes) AS i(id, description, payload, hash);
  PERFORM bound_commit(command, meta_text,
    ARRAY(SELECT 'task-' || i FROM unnest(ids) AS i), array_fill(1::bigint, ARRAY[added::int]),
    array_fill('task.submitted'::text, ARRAY[added::int]), datas,
    ARRAY['events/task.submitted', 'queue/default/pending'], ARRAY[added, added]);
END $$;

-- Ends what was executed, starts as many others as are wanted, in one commit.
CREATE FUNCTION bound_step(
  command text, meta_text text, holder text, instant bigint, done_ids text[],
  done_tokens bigint[], done_results text[], done_datas text[], wanted int,
  OUT id text, OUT token bigint, OUT description text, OUT payload text
) RETURNS SETOF record LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
  streams text[];
  versions bigint[];
  datas text[];
  claimed text[];
  ended bigint;
  begun bigint;
BEGIN
  WITH done AS (
    UPDATE tasks AS t SET version = d.token + 1, status = 'completed', updated_at = instant,
      passed_verifiers = '[]', token = NULL, worker = NULL, started_at = NULL,
      deadline = NULL, result = d.result, finished_at = instant
    FROM unnest(done_ids, done_tokens, done_results, done_datas)
      AS d(id, token, result, data)
    WHERE t.id = d.id AND t.version = d.token
    RETURNING 'task-' || t.id AS stream, t.version, d.data
  )
  SELECT coalesce(array_agg(d.stream), '{}'), coalesce(array_agg(d.version), '{}'),
    coalesce(array_agg(d.data), '{}'), count(*)
  INTO streams, versions, datas, ended FROM done AS d;

  claimed := ARRAY(
    SELECT c.id FROM (
      SELECT r.task_id FROM ready AS r
      ORDER BY r.priority DESC, r.ready_at, r.task_id LIMIT wanted
    ) AS r CROSS JOIN LATERAL (
      SELECT t.id FROM tasks AS t WHERE t.id = r.task_id AND t.status = 'pending'
      FOR UPDATE SKIP LOCKED
    ) AS c
  );
  begun := cardinality(claimed);
  UPDATE tasks AS t SET version = t.version + 1, status = 'in_progress', runs = t.runs + 1,
    attempts = t.attempts + 1, token = t.version + 1, worker = holder,
    started_at = instant, updated_at = instant
  WHERE t.id = ANY (claimed);
  IF ended + begun = 0 THEN
    RETURN;
  END IF;
  RETURN QUERY SELECT t.id, t.token, t.description, t.payload
  FROM unnest(claimed) WITH ORDINALITY AS c(id, place) JOIN tasks AS t ON t.id = c.id
  ORDER BY c.place;
  streams := streams || ARRAY(SELECT 'task-' || c FROM unnest(claimed) AS c);
  versions := versions || array_fill(2::bigint, ARRAY[begun::int]);
  datas := datas || array_fill('{"attempt":1,"phase":"execute","run":1,"token":2,"worker":"'
    || holder || '"}', ARRAY[begun::int]);
  PERFORM bound_commit(command, meta_text, streams, versions,
    array_fill('task.completed'::text, ARRAY[ended::int])
      || array_fill('task.started'::text, ARRAY[begun::int]), datas,
    ARRAY['events/task.completed', 'events/task.started', 'queue/default/completed',
      'queue/default/in_progress', 'queue/default/pending'],
    ARRAY[ended, begun, ended, begun - ended, -begun]);
END $$;
