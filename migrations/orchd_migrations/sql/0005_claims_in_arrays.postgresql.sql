-- orchd, schema 0005 for postgresql. A line with --;; ends a statement.
DROP FUNCTION orchd_claim(json, json)
--;;
CREATE FUNCTION orchd_claim(
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
  deltas json[] := '{}';
  answers json[] := '{}';
  started text[];
  started_versions bigint[];
  started_datas text[];
  moved json;
  found json;
  fenced_now boolean;
BEGIN
  PERFORM orchd_claim_promote((wish->>'now')::bigint);
  paused := ARRAY(SELECT name FROM queues WHERE queues.paused);
  IF wish->'limits' IS NOT NULL THEN
    running := orchd_claim_room(wish->'limits', changes);
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
    narrow := '{}';
    IF running IS NOT NULL THEN
      narrow := ARRAY(SELECT key FROM json_each_text(running) WHERE value::int < c.slots);
    END IF;
    ids := ARRAY(
      SELECT t.id FROM (
        SELECT r.task_id, r.priority, r.ready_at FROM ready AS r
        WHERE (r.phase = 'execute' AND r.executor = ANY (able)
        OR r.phase = 'verify' AND c.probe IS NULL
          AND r.verifiers::jsonb <@ c.verifiers::jsonb)
      AND (c.queues IS NULL OR r.queue = ANY (c.queues) OR r.queue ~ ANY (c.patterns))
          AND r.queue <> ALL (paused) AND r.queue <> ALL (narrow)
          AND (CASE WHEN c.alone THEN r.crashes >= c.max_crashes
            ELSE r.crashes < c.max_crashes END)
        ORDER BY r.priority DESC, r.ready_at, r.task_id LIMIT c.slots + 1000
      ) AS r CROSS JOIN LATERAL (
        SELECT t.id FROM tasks AS t
        WHERE t.id = r.task_id AND t.status = 'pending'
          AND (t.waiting_reason IS NULL OR t.waiting_until <= c.now)
        FOR UPDATE SKIP LOCKED
      ) AS t LIMIT c.slots
    );
    crowded := false;
    FOREACH queue_name IN ARRAY narrow LOOP
      room := (running->>queue_name)::int;
      CONTINUE WHEN room <= 0 OR queue_name = ANY (paused);
      ids := ids || ARRAY(
      SELECT t.id FROM (
        SELECT r.task_id, r.priority, r.ready_at FROM ready AS r
        WHERE (r.phase = 'execute' AND r.executor = ANY (able)
        OR r.phase = 'verify' AND c.probe IS NULL
          AND r.verifiers::jsonb <@ c.verifiers::jsonb)
      AND (c.queues IS NULL OR r.queue = ANY (c.queues) OR r.queue ~ ANY (c.patterns))
          AND r.queue = queue_name
          AND (CASE WHEN c.alone THEN r.crashes >= c.max_crashes
            ELSE r.crashes < c.max_crashes END)
        ORDER BY r.priority DESC, r.ready_at, r.task_id LIMIT room + 1000
      ) AS r CROSS JOIN LATERAL (
        SELECT t.id FROM tasks AS t
        WHERE t.id = r.task_id AND t.status = 'pending'
          AND (t.waiting_reason IS NULL OR t.waiting_until <= c.now)
        FOR UPDATE SKIP LOCKED
      ) AS t LIMIT room
    );
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
        SELECT CASE WHEN l.micros < 4611686018427387904 - c.now THEN c.now + round(l.micros)::bigint
          WHEN l.micros IS NOT NULL THEN 4611686018427387904 END AS deadline
        FROM (SELECT 1000000 * (CASE before."phase" WHEN 'execute'
          THEN before."execute_timeout_seconds"
          ELSE before."verify_timeout_seconds" END) AS micros) AS l
      ) AS d
      WHERE t.id = before.id
      RETURNING t.id, t."version", t."attempts", t."runs", t."phase", t."deadline",
        t."alone", t."queue", before.place,
        CASE WHEN c.brief AND (before."namespace", before."status", before."phase", before."lane", before."description_blob", before."payload_blob", before."labels", before."parent_id", before."waiting_reason", before."waiting_until", before."waiting_ref", before."round", before."runs", before."attempts", before."crashes", before."deferrals", before."verify_errors", before."passed_verifiers", before."token", before."worker", before."alone", before."started_at", before."deadline", before."cancel_requested", before."result", before."result_blob", before."result_metadata", before."confidence", before."error", before."error_class", before."fingerprint", before."feedback", before."finished_at") IS NOT DISTINCT FROM ('default', 'pending', 'execute', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 0, 0, 0, 0, 0, '[]', NULL, NULL, false, NULL, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
          THEN json_build_array(before."id", before."version", before."queue", before."priority", before."executor", before."verifiers", before."description", before."payload", before."metadata", before."idempotency_key", before."body_hash", before."traceparent", before."max_attempts", before."execute_timeout_seconds", before."verify_timeout_seconds", before."created_at", before."updated_at", before."run_at") ELSE json_build_array(before."id", before."version", before."namespace", before."status", before."phase", before."queue", before."priority", before."lane", before."executor", before."verifiers", before."description", before."description_blob", before."payload", before."payload_blob", before."metadata", before."labels", before."parent_id", before."idempotency_key", before."body_hash", before."traceparent", before."max_attempts", before."execute_timeout_seconds", before."verify_timeout_seconds", before."created_at", before."updated_at", before."run_at", before."waiting_reason", before."waiting_until", before."waiting_ref", before."round", before."runs", before."attempts", before."crashes", before."deferrals", before."verify_errors", before."passed_verifiers", before."token", before."worker", before."alone", before."started_at", before."deadline", before."cancel_requested", before."result", before."result_blob", before."result_metadata", before."confidence", before."error", before."error_class", before."fingerprint", before."feedback", before."finished_at") END AS row
    )
    SELECT array_agg('task-' || a.id), array_agg(a."version"), array_agg('{'
        || (CASE WHEN a."alone" THEN '"alone":true,' ELSE '' END)
        || '"attempt":' || a."attempts"
        || coalesce(',"deadline":' || a."deadline", '')
        || ',"phase":"' || a."phase" || '","run":' || a."runs"
        || ',"token":' || a."version" || ',"worker":' || c.worker_json || '}'),
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
      'tasks', found, 'alone_waiting', NOT c.alone AND c.probe IS NULL AND (CASE
        WHEN c.max_crashes > 0 THEN EXISTS (SELECT FROM ready AS r
          WHERE r.crashes > 0 AND r.crashes >= c.max_crashes
            AND r.queue <> ALL (paused) AND (r.phase = 'execute' AND r.executor = ANY (able)
        OR r.phase = 'verify' AND c.probe IS NULL
          AND r.verifiers::jsonb <@ c.verifiers::jsonb)
      AND (c.queues IS NULL OR r.queue = ANY (c.queues) OR r.queue ~ ANY (c.patterns)))
        ELSE EXISTS (SELECT FROM ready AS r
          WHERE r.queue <> ALL (paused) AND (r.phase = 'execute' AND r.executor = ANY (able)
        OR r.phase = 'verify' AND c.probe IS NULL
          AND r.verifiers::jsonb <@ c.verifiers::jsonb)
      AND (c.queues IS NULL OR r.queue = ANY (c.queues) OR r.queue ~ ANY (c.patterns))) END));
  END LOOP;

  -- One claim is the rule, and its counters need not be taken apart.
  counters := deltas[1];
  IF cardinality(deltas) > 1 THEN
    counters := (SELECT json_agg(d) FROM unnest(deltas) AS s, json_array_elements(s) AS d);
  END IF;
  answer := array_to_json(answers);
END $$
--;;
CREATE OR REPLACE FUNCTION eventstore_append(command text, item_count int, new_events json, new_counters json, new_blobs json, bare boolean, wish json, tasks_inserts json, tasks_updates json, tasks_narrow json, tasks_keys text[], queues_inserts json, queues_updates json, queues_narrow json, queues_keys text[], breakers_inserts json, breakers_updates json, breakers_narrow json, breakers_keys text[])
RETURNS text LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
  won int[] := '{}';
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
    RETURN '{"repeated":true}';
  END IF;
  IF new_blobs IS NOT NULL THEN
    INSERT INTO blobs (hash, size, encoding, body)
    SELECT hash, size, encoding, decode(body, 'base64')
    FROM json_to_recordset(new_blobs) AS b(hash text, size bigint, encoding text, body text)
    ORDER BY hash
    ON CONFLICT DO NOTHING;
  END IF;
  IF tasks_inserts IS NOT NULL THEN
    WITH input AS (
      SELECT * FROM json_to_recordset(tasks_inserts) AS r(item int, "id" TEXT COLLATE "C", "version" BIGINT, "namespace" TEXT COLLATE "C", "status" TEXT COLLATE "C", "phase" TEXT COLLATE "C", "queue" TEXT COLLATE "C", "priority" BIGINT, "lane" TEXT COLLATE "C", "executor" TEXT COLLATE "C", "verifiers" TEXT, "description" TEXT, "description_blob" TEXT COLLATE "C", "payload" TEXT, "payload_blob" TEXT COLLATE "C", "metadata" TEXT, "labels" TEXT, "parent_id" TEXT COLLATE "C", "idempotency_key" TEXT COLLATE "C", "body_hash" TEXT COLLATE "C", "traceparent" TEXT, "max_attempts" BIGINT, "execute_timeout_seconds" DOUBLE PRECISION, "verify_timeout_seconds" DOUBLE PRECISION, "created_at" BIGINT, "updated_at" BIGINT, "run_at" BIGINT, "waiting_reason" TEXT COLLATE "C", "waiting_until" BIGINT, "waiting_ref" TEXT, "round" BIGINT, "runs" BIGINT, "attempts" BIGINT, "crashes" BIGINT, "deferrals" BIGINT, "verify_errors" BIGINT, "passed_verifiers" TEXT, "token" BIGINT, "worker" TEXT COLLATE "C", "alone" BOOLEAN, "started_at" BIGINT, "deadline" BIGINT, "cancel_requested" BOOLEAN, "result" TEXT, "result_blob" TEXT COLLATE "C", "result_metadata" TEXT, "confidence" DOUBLE PRECISION, "error" TEXT, "error_class" TEXT COLLATE "C", "fingerprint" TEXT COLLATE "C", "feedback" TEXT, "finished_at" BIGINT)
    ), stored AS (
      INSERT INTO tasks ("id", "version", "namespace", "status", "phase", "queue", "priority", "lane", "executor", "verifiers", "description", "description_blob", "payload", "payload_blob", "metadata", "labels", "parent_id", "idempotency_key", "body_hash", "traceparent", "max_attempts", "execute_timeout_seconds", "verify_timeout_seconds", "created_at", "updated_at", "run_at", "waiting_reason", "waiting_until", "waiting_ref", "round", "runs", "attempts", "crashes", "deferrals", "verify_errors", "passed_verifiers", "token", "worker", "alone", "started_at", "deadline", "cancel_requested", "result", "result_blob", "result_metadata", "confidence", "error", "error_class", "fingerprint", "feedback", "finished_at")
      SELECT "id", "version", "namespace", "status", "phase", "queue", "priority", "lane", "executor", "verifiers", "description", "description_blob", "payload", "payload_blob", "metadata", "labels", "parent_id", "idempotency_key", "body_hash", "traceparent", "max_attempts", "execute_timeout_seconds", "verify_timeout_seconds", "created_at", "updated_at", "run_at", "waiting_reason", "waiting_until", "waiting_ref", "round", "runs", "attempts", "crashes", "deferrals", "verify_errors", "passed_verifiers", "token", "worker", "alone", "started_at", "deadline", "cancel_requested", "result", "result_blob", "result_metadata", "confidence", "error", "error_class", "fingerprint", "feedback", "finished_at" FROM input ORDER BY "id"
      ON CONFLICT DO NOTHING
      RETURNING "id" AS stored_key
    )
    -- IS TRUE keeps this a look-up in a hash table instead of a join.
    SELECT won || coalesce(array_agg(input.item), '{}') INTO won
    FROM input WHERE (input."id" IN (SELECT stored_key FROM stored)) IS TRUE;
  END IF;
  IF tasks_keys IS NOT NULL THEN
    -- Two statements follow, so their rows are locked in the order of the keys first.
    PERFORM 1 FROM tasks WHERE "id" = ANY (tasks_keys) ORDER BY "id" FOR UPDATE;
  END IF;
  IF tasks_updates IS NOT NULL THEN
    WITH stored AS (
      UPDATE tasks AS t SET "version" = r."version", "status" = r."status", "phase" = r."phase", "updated_at" = r."updated_at", "run_at" = r."run_at", "waiting_reason" = r."waiting_reason", "waiting_until" = r."waiting_until", "waiting_ref" = r."waiting_ref", "round" = r."round", "runs" = r."runs", "attempts" = r."attempts", "crashes" = r."crashes", "deferrals" = r."deferrals", "verify_errors" = r."verify_errors", "passed_verifiers" = r."passed_verifiers", "token" = r."token", "worker" = r."worker", "alone" = r."alone", "started_at" = r."started_at", "deadline" = r."deadline", "cancel_requested" = r."cancel_requested", "result" = r."result", "result_blob" = r."result_blob", "result_metadata" = r."result_metadata", "confidence" = r."confidence", "error" = r."error", "error_class" = r."error_class", "fingerprint" = r."fingerprint", "feedback" = r."feedback", "finished_at" = r."finished_at"
      FROM json_to_recordset(tasks_updates) AS r(item int, expected bigint, "id" TEXT COLLATE "C", "version" BIGINT, "status" TEXT COLLATE "C", "phase" TEXT COLLATE "C", "updated_at" BIGINT, "run_at" BIGINT, "waiting_reason" TEXT COLLATE "C", "waiting_until" BIGINT, "waiting_ref" TEXT, "round" BIGINT, "runs" BIGINT, "attempts" BIGINT, "crashes" BIGINT, "deferrals" BIGINT, "verify_errors" BIGINT, "passed_verifiers" TEXT, "token" BIGINT, "worker" TEXT COLLATE "C", "alone" BOOLEAN, "started_at" BIGINT, "deadline" BIGINT, "cancel_requested" BOOLEAN, "result" TEXT, "result_blob" TEXT COLLATE "C", "result_metadata" TEXT, "confidence" DOUBLE PRECISION, "error" TEXT, "error_class" TEXT COLLATE "C", "fingerprint" TEXT COLLATE "C", "feedback" TEXT, "finished_at" BIGINT)
      WHERE t."id" = r."id" AND t."version" = r.expected
      RETURNING r.item
    )
    SELECT won || coalesce(array_agg(stored.item), '{}') INTO won FROM stored;
  END IF;
  IF tasks_narrow IS NOT NULL THEN
    WITH stored AS (
      UPDATE tasks AS t SET "version" = r."version", "status" = r."status", "updated_at" = r."updated_at", "passed_verifiers" = r."passed_verifiers", "token" = r."token", "worker" = r."worker", "started_at" = r."started_at", "deadline" = r."deadline", "result" = r."result", "result_blob" = r."result_blob", "result_metadata" = r."result_metadata", "confidence" = r."confidence", "finished_at" = r."finished_at"
      FROM json_to_recordset(tasks_narrow) AS r(item int, expected bigint, "id" TEXT COLLATE "C", "version" BIGINT, "status" TEXT COLLATE "C", "updated_at" BIGINT, "passed_verifiers" TEXT, "token" BIGINT, "worker" TEXT COLLATE "C", "started_at" BIGINT, "deadline" BIGINT, "result" TEXT, "result_blob" TEXT COLLATE "C", "result_metadata" TEXT, "confidence" DOUBLE PRECISION, "finished_at" BIGINT)
      WHERE t."id" = r."id" AND t."version" = r.expected
      RETURNING r.item
    )
    SELECT won || coalesce(array_agg(stored.item), '{}') INTO won FROM stored;
  END IF;
  IF queues_inserts IS NOT NULL THEN
    WITH input AS (
      SELECT * FROM json_to_recordset(queues_inserts) AS r(item int, "name" TEXT COLLATE "C", "version" BIGINT, "paused" BOOLEAN, "reason" TEXT, "actor" TEXT, "changed_at" BIGINT)
    ), stored AS (
      INSERT INTO queues ("name", "version", "paused", "reason", "actor", "changed_at")
      SELECT "name", "version", "paused", "reason", "actor", "changed_at" FROM input ORDER BY "name"
      ON CONFLICT DO NOTHING
      RETURNING "name" AS stored_key
    )
    -- IS TRUE keeps this a look-up in a hash table instead of a join.
    SELECT won || coalesce(array_agg(input.item), '{}') INTO won
    FROM input WHERE (input."name" IN (SELECT stored_key FROM stored)) IS TRUE;
  END IF;
  IF queues_keys IS NOT NULL THEN
    -- Two statements follow, so their rows are locked in the order of the keys first.
    PERFORM 1 FROM queues WHERE "name" = ANY (queues_keys) ORDER BY "name" FOR UPDATE;
  END IF;
  IF queues_updates IS NOT NULL THEN
    WITH stored AS (
      UPDATE queues AS t SET "version" = r."version", "paused" = r."paused", "reason" = r."reason", "actor" = r."actor", "changed_at" = r."changed_at"
      FROM json_to_recordset(queues_updates) AS r(item int, expected bigint, "name" TEXT COLLATE "C", "version" BIGINT, "paused" BOOLEAN, "reason" TEXT, "actor" TEXT, "changed_at" BIGINT)
      WHERE t."name" = r."name" AND t."version" = r.expected
      RETURNING r.item
    )
    SELECT won || coalesce(array_agg(stored.item), '{}') INTO won FROM stored;
  END IF;
  IF breakers_inserts IS NOT NULL THEN
    WITH input AS (
      SELECT * FROM json_to_recordset(breakers_inserts) AS r(item int, "name" TEXT COLLATE "C", "version" BIGINT, "position" TEXT COLLATE "C", "failures" BIGINT, "error" TEXT, "until" BIGINT, "worker" TEXT COLLATE "C", "changed_at" BIGINT)
    ), stored AS (
      INSERT INTO breakers ("name", "version", "position", "failures", "error", "until", "worker", "changed_at")
      SELECT "name", "version", "position", "failures", "error", "until", "worker", "changed_at" FROM input ORDER BY "name"
      ON CONFLICT DO NOTHING
      RETURNING "name" AS stored_key
    )
    -- IS TRUE keeps this a look-up in a hash table instead of a join.
    SELECT won || coalesce(array_agg(input.item), '{}') INTO won
    FROM input WHERE (input."name" IN (SELECT stored_key FROM stored)) IS TRUE;
  END IF;
  IF breakers_keys IS NOT NULL THEN
    -- Two statements follow, so their rows are locked in the order of the keys first.
    PERFORM 1 FROM breakers WHERE "name" = ANY (breakers_keys) ORDER BY "name" FOR UPDATE;
  END IF;
  IF breakers_updates IS NOT NULL THEN
    WITH stored AS (
      UPDATE breakers AS t SET "version" = r."version", "position" = r."position", "failures" = r."failures", "error" = r."error", "until" = r."until", "worker" = r."worker", "changed_at" = r."changed_at"
      FROM json_to_recordset(breakers_updates) AS r(item int, expected bigint, "name" TEXT COLLATE "C", "version" BIGINT, "position" TEXT COLLATE "C", "failures" BIGINT, "error" TEXT, "until" BIGINT, "worker" TEXT COLLATE "C", "changed_at" BIGINT)
      WHERE t."name" = r."name" AND t."version" = r.expected
      RETURNING r.item
    )
    SELECT won || coalesce(array_agg(stored.item), '{}') INTO won FROM stored;
  END IF;
  all_won := cardinality(won) = item_count;
  IF wish IS NOT NULL THEN
    SELECT p.streams, p.versions, p.types, p.datas, p.metas, p.counters, p.answer
    INTO more_streams, more_versions, more_types, more_datas, more_metas, more_counters,
      answered
    FROM orchd_claim(wish, (
      SELECT json_object_agg(c.name, c.delta) FROM (
        SELECT name, sum(delta * (CASE WHEN all_won THEN cardinality(items)
          ELSE (SELECT count(*) FROM unnest(items) AS i WHERE i = ANY (won)) END)) AS delta
        FROM json_to_recordset(new_counters) AS c(name text, delta bigint, items int[])
        GROUP BY name
      ) AS c
    )) AS p;
  END IF;

  IF NOT bare AND won = '{}' AND more_streams IS NULL THEN
    -- A fresh statement sees the commit that made the items lose, if it was this command.
    RETURN json_build_object('won', won, 'answer', answered,
      'repeated', EXISTS (SELECT FROM commits WHERE command_id = command));
  END IF;

  SELECT position, hash, recorded_at INTO STRICT head
  FROM log_head WHERE id = 1 FOR UPDATE;
  stamp := greatest(clock_timestamp(), head.recorded_at);
  instant := (extract(epoch FROM stamp) * 1000000)::bigint;

  IF bare THEN
    SELECT won || coalesce(array_agg(b.item), '{}') INTO won
    FROM (
      SELECT DISTINCT e.item, e.stream, e.expected
      FROM json_to_recordset(new_events) AS e(item int, stream text, expected bigint)
      WHERE e.expected IS NOT NULL
    ) AS b
    WHERE b.expected = -1 OR b.expected = (
      SELECT coalesce(max(s.version), 0) FROM events AS s WHERE s.stream = b.stream);
    all_won := cardinality(won) = item_count;
    IF won = '{}' AND more_streams IS NULL THEN
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

  PERFORM pg_notify('eventstore', (head.position + added)::text);
  RETURN json_build_object(
    'won', CASE WHEN all_won THEN NULL ELSE won END, 'versions', versions,
    'first', head.position + 1, 'last', head.position + added, 'at', instant,
    'answer', answered);
END $$
