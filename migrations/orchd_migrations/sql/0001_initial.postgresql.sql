-- orchd, schema 0001 for postgresql. A line with --;; ends a statement.
CREATE TABLE blobs (
    hash TEXT NOT NULL,
    size BIGINT NOT NULL,
    encoding TEXT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (hash)
)
--;;
CREATE TABLE commits (
    last_position BIGINT NOT NULL,
    command_id TEXT NOT NULL,
    events INTEGER NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (last_position),
    CONSTRAINT commits_command_id_key UNIQUE (command_id)
)
--;;
CREATE TABLE counters (
    name TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name)
)
--;;
CREATE TABLE events (
    position BIGINT NOT NULL,
    stream TEXT NOT NULL,
    version BIGINT NOT NULL,
    type TEXT NOT NULL,
    data TEXT NOT NULL,
    meta TEXT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (position),
    CONSTRAINT events_stream_version_key UNIQUE (stream, version)
)
--;;
CREATE TABLE log_head (
    id INTEGER NOT NULL,
    position BIGINT NOT NULL,
    hash TEXT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT log_head_one_row CHECK (id = 1)
)
--;;
CREATE TABLE breakers (
    name TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    position TEXT COLLATE "C" NOT NULL,
    failures BIGINT NOT NULL,
    error TEXT NOT NULL,
    until BIGINT,
    worker TEXT COLLATE "C",
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (name),
    CONSTRAINT breakers_version_check CHECK (version >= 1),
    CONSTRAINT breakers_position_check CHECK ((position = 'closed' AND until IS NULL AND worker IS NULL) OR (position = 'open' AND until IS NOT NULL AND worker IS NULL) OR (position = 'half_open' AND until IS NOT NULL AND worker IS NOT NULL))
)
--;;
CREATE TABLE limits (
    name TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (name)
)
--;;
CREATE TABLE queues (
    name TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    paused BOOLEAN NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (name),
    CONSTRAINT queues_version_check CHECK (version >= 1)
)
--;;
CREATE TABLE ready (
    task_id TEXT COLLATE "C" NOT NULL,
    queue TEXT COLLATE "C" NOT NULL,
    executor TEXT COLLATE "C" NOT NULL,
    verifiers TEXT NOT NULL,
    phase TEXT COLLATE "C" NOT NULL,
    priority BIGINT NOT NULL,
    crashes BIGINT NOT NULL,
    ready_at BIGINT NOT NULL,
    PRIMARY KEY (task_id)
)
 WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05)
--;;
CREATE INDEX ready_crashed ON ready (crashes, task_id) WHERE crashes > 0
--;;
CREATE INDEX ready_oldest ON ready (queue, ready_at)
--;;
CREATE INDEX ready_order ON ready (priority DESC, ready_at, task_id)
--;;
CREATE TABLE tasks (
    id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    phase TEXT COLLATE "C" NOT NULL,
    queue TEXT COLLATE "C" NOT NULL,
    priority BIGINT NOT NULL,
    lane TEXT COLLATE "C",
    executor TEXT COLLATE "C" NOT NULL,
    verifiers TEXT NOT NULL,
    description TEXT,
    description_blob TEXT COLLATE "C",
    payload TEXT,
    payload_blob TEXT COLLATE "C",
    metadata TEXT,
    labels TEXT,
    parent_id TEXT COLLATE "C",
    idempotency_key TEXT COLLATE "C",
    body_hash TEXT COLLATE "C" NOT NULL,
    traceparent TEXT,
    max_attempts BIGINT NOT NULL,
    execute_timeout_seconds DOUBLE PRECISION,
    verify_timeout_seconds DOUBLE PRECISION,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    waiting_reason TEXT COLLATE "C",
    waiting_until BIGINT,
    waiting_ref TEXT,
    round BIGINT NOT NULL,
    runs BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    crashes BIGINT NOT NULL,
    deferrals BIGINT NOT NULL,
    verify_errors BIGINT NOT NULL,
    passed_verifiers TEXT NOT NULL,
    token BIGINT,
    worker TEXT COLLATE "C",
    alone BOOLEAN NOT NULL,
    started_at BIGINT,
    deadline BIGINT,
    cancel_requested BOOLEAN NOT NULL,
    result TEXT,
    result_blob TEXT COLLATE "C",
    result_metadata TEXT,
    confidence DOUBLE PRECISION,
    error TEXT,
    error_class TEXT COLLATE "C",
    fingerprint TEXT COLLATE "C",
    feedback TEXT,
    finished_at BIGINT,
    PRIMARY KEY (id),
    CONSTRAINT tasks_status_check CHECK (status IN ('cancelled', 'completed', 'discarded', 'failed', 'in_progress', 'pending')),
    CONSTRAINT tasks_phase_check CHECK (phase IN ('execute', 'verify')),
    CONSTRAINT tasks_version_check CHECK (version >= 1),
    CONSTRAINT tasks_round_check CHECK (round >= 1),
    CONSTRAINT tasks_runs_check CHECK (runs >= 0),
    CONSTRAINT tasks_attempts_check CHECK (attempts >= 0 AND attempts <= max_attempts),
    CONSTRAINT tasks_max_attempts_check CHECK (max_attempts >= 1),
    CONSTRAINT tasks_counts_check CHECK (crashes >= 0 AND deferrals >= 0 AND verify_errors >= 0),
    CONSTRAINT tasks_holder_check CHECK ((status = 'in_progress' AND token IS NOT NULL AND worker IS NOT NULL AND started_at IS NOT NULL) OR (status <> 'in_progress' AND token IS NULL AND worker IS NULL AND started_at IS NULL AND deadline IS NULL AND NOT alone AND NOT cancel_requested)),
    CONSTRAINT tasks_token_check CHECK (token IS NULL OR (token >= 1 AND token <= version)),
    CONSTRAINT tasks_waiting_check CHECK (waiting_reason IS NULL AND waiting_until IS NULL AND waiting_ref IS NULL OR waiting_reason IS NOT NULL AND status = 'pending'),
    CONSTRAINT tasks_finished_check CHECK ((status IN ('cancelled', 'completed', 'discarded', 'failed') AND finished_at IS NOT NULL) OR (status NOT IN ('cancelled', 'completed', 'discarded', 'failed') AND finished_at IS NULL)),
    CONSTRAINT tasks_completed_check CHECK (status <> 'completed' OR (result IS NOT NULL OR result_blob IS NOT NULL)),
    CONSTRAINT tasks_verify_check CHECK (phase <> 'verify' OR (result IS NOT NULL OR result_blob IS NOT NULL)),
    CONSTRAINT tasks_error_check CHECK (status NOT IN ('failed', 'discarded') OR error_class IS NOT NULL),
    CONSTRAINT tasks_description_check CHECK ((description IS NULL AND description_blob IS NOT NULL) OR (description IS NOT NULL AND description_blob IS NULL)),
    CONSTRAINT tasks_payload_check CHECK (payload IS NULL OR payload_blob IS NULL),
    CONSTRAINT tasks_result_check CHECK (result IS NULL OR result_blob IS NULL)
)
--;;
CREATE INDEX tasks_by_executor ON tasks (executor, created_at, id)
--;;
CREATE INDEX tasks_by_queue ON tasks (queue, created_at, id)
--;;
CREATE INDEX tasks_by_status ON tasks (status, created_at, id)
--;;
CREATE INDEX tasks_cancel_requested ON tasks (worker, id) WHERE cancel_requested
--;;
CREATE INDEX tasks_held ON tasks (worker, id) WHERE status = 'in_progress'
--;;
CREATE UNIQUE INDEX tasks_idempotency_key ON tasks (namespace, idempotency_key) WHERE idempotency_key IS NOT NULL
--;;
CREATE INDEX tasks_newest ON tasks (created_at, id)
--;;
CREATE TABLE timers (
    task_id TEXT COLLATE "C" NOT NULL,
    queue TEXT COLLATE "C" NOT NULL,
    executor TEXT COLLATE "C" NOT NULL,
    verifiers TEXT NOT NULL,
    phase TEXT COLLATE "C" NOT NULL,
    priority BIGINT NOT NULL,
    crashes BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (task_id)
)
 WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05)
--;;
CREATE INDEX timers_due ON timers (due_at)
--;;
CREATE TABLE workers (
    id TEXT COLLATE "C" NOT NULL,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid BIGINT NOT NULL,
    process_start BIGINT,
    executors TEXT NOT NULL,
    verifiers TEXT NOT NULL,
    release TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    renewed_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    fenced BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT workers_lease_check CHECK (expires_at >= renewed_at)
)
--;;
INSERT INTO log_head (id, position, hash) VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000')
--;;
CREATE FUNCTION eventstore_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is written once: % refused', TG_TABLE_NAME, TG_OP;
END $$
--;;
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE TRIGGER commits_refuse_update BEFORE UPDATE ON commits
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE TRIGGER commits_refuse_delete BEFORE DELETE ON commits
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE TRIGGER blobs_refuse_update BEFORE UPDATE ON blobs
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE TRIGGER commits_refuse_truncate BEFORE TRUNCATE ON commits
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE FUNCTION eventstore_append(command text, new_events json, new_counters json, new_blobs json, bare boolean, tasks_inserts json, tasks_updates json, tasks_keys text[], queues_inserts json, queues_updates json, queues_keys text[], breakers_inserts json, breakers_updates json, breakers_keys text[])
RETURNS json LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
  won int[] := '{}';
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
  IF tasks_updates IS NOT NULL THEN
    -- Rows are locked in the order of their keys before any is changed.
    PERFORM 1 FROM tasks WHERE "id" = ANY (tasks_keys) ORDER BY "id" FOR UPDATE;
    WITH stored AS (
      UPDATE tasks AS t SET "version" = r."version", "status" = r."status", "phase" = r."phase", "updated_at" = r."updated_at", "run_at" = r."run_at", "waiting_reason" = r."waiting_reason", "waiting_until" = r."waiting_until", "waiting_ref" = r."waiting_ref", "round" = r."round", "runs" = r."runs", "attempts" = r."attempts", "crashes" = r."crashes", "deferrals" = r."deferrals", "verify_errors" = r."verify_errors", "passed_verifiers" = r."passed_verifiers", "token" = r."token", "worker" = r."worker", "alone" = r."alone", "started_at" = r."started_at", "deadline" = r."deadline", "cancel_requested" = r."cancel_requested", "result" = r."result", "result_blob" = r."result_blob", "result_metadata" = r."result_metadata", "confidence" = r."confidence", "error" = r."error", "error_class" = r."error_class", "fingerprint" = r."fingerprint", "feedback" = r."feedback", "finished_at" = r."finished_at"
      FROM json_to_recordset(tasks_updates)
        AS r(item int, expected bigint, "id" TEXT COLLATE "C", "version" BIGINT, "status" TEXT COLLATE "C", "phase" TEXT COLLATE "C", "updated_at" BIGINT, "run_at" BIGINT, "waiting_reason" TEXT COLLATE "C", "waiting_until" BIGINT, "waiting_ref" TEXT, "round" BIGINT, "runs" BIGINT, "attempts" BIGINT, "crashes" BIGINT, "deferrals" BIGINT, "verify_errors" BIGINT, "passed_verifiers" TEXT, "token" BIGINT, "worker" TEXT COLLATE "C", "alone" BOOLEAN, "started_at" BIGINT, "deadline" BIGINT, "cancel_requested" BOOLEAN, "result" TEXT, "result_blob" TEXT COLLATE "C", "result_metadata" TEXT, "confidence" DOUBLE PRECISION, "error" TEXT, "error_class" TEXT COLLATE "C", "fingerprint" TEXT COLLATE "C", "feedback" TEXT, "finished_at" BIGINT)
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
  IF queues_updates IS NOT NULL THEN
    -- Rows are locked in the order of their keys before any is changed.
    PERFORM 1 FROM queues WHERE "name" = ANY (queues_keys) ORDER BY "name" FOR UPDATE;
    WITH stored AS (
      UPDATE queues AS t SET "version" = r."version", "paused" = r."paused", "reason" = r."reason", "actor" = r."actor", "changed_at" = r."changed_at"
      FROM json_to_recordset(queues_updates)
        AS r(item int, expected bigint, "name" TEXT COLLATE "C", "version" BIGINT, "paused" BOOLEAN, "reason" TEXT, "actor" TEXT, "changed_at" BIGINT)
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
  IF breakers_updates IS NOT NULL THEN
    -- Rows are locked in the order of their keys before any is changed.
    PERFORM 1 FROM breakers WHERE "name" = ANY (breakers_keys) ORDER BY "name" FOR UPDATE;
    WITH stored AS (
      UPDATE breakers AS t SET "version" = r."version", "position" = r."position", "failures" = r."failures", "error" = r."error", "until" = r."until", "worker" = r."worker", "changed_at" = r."changed_at"
      FROM json_to_recordset(breakers_updates)
        AS r(item int, expected bigint, "name" TEXT COLLATE "C", "version" BIGINT, "position" TEXT COLLATE "C", "failures" BIGINT, "error" TEXT, "until" BIGINT, "worker" TEXT COLLATE "C", "changed_at" BIGINT)
      WHERE t."name" = r."name" AND t."version" = r.expected
      RETURNING r.item
    )
    SELECT won || coalesce(array_agg(stored.item), '{}') INTO won FROM stored;
  END IF;
  IF NOT bare AND won = '{}' THEN
    -- A fresh statement sees the commit that made the items lose, if it was this command.
    RETURN json_build_object(
      'won', won,
      'repeated', EXISTS (SELECT FROM commits WHERE command_id = command));
  END IF;

  SELECT position, hash, recorded_at INTO STRICT head
  FROM log_head WHERE id = 1 FOR UPDATE;
  stamp := greatest(clock_timestamp(), head.recorded_at);

  IF bare THEN
    SELECT won || coalesce(array_agg(b.item), '{}') INTO won
    FROM (
      SELECT DISTINCT e.item, e.stream, e.expected
      FROM json_to_recordset(new_events) AS e(item int, stream text, expected bigint)
      WHERE e.expected IS NOT NULL
    ) AS b
    WHERE b.expected = -1 OR b.expected = (
      SELECT coalesce(max(s.version), 0) FROM events AS s WHERE s.stream = b.stream);
    IF won = '{}' THEN
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

  PERFORM pg_notify('eventstore', (head.position + added)::text);
  RETURN json_build_object(
    'won', won, 'repeated', false, 'spans', versions,
    'first', head.position + 1, 'last', head.position + added,
    'at', (extract(epoch FROM stamp) * 1000000)::bigint);
END $$
--;;
CREATE FUNCTION tasks_derive_insert() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = on AS $$
BEGIN
    INSERT INTO ready (task_id, queue, executor, verifiers, phase, priority, crashes, ready_at)
    SELECT n.id, n.queue, n.executor, n.verifiers, n.phase, n.priority, n.crashes, n.updated_at FROM new_rows AS n WHERE n.status = 'pending' AND n.waiting_reason IS NULL
    ON CONFLICT DO NOTHING;
    INSERT INTO timers (task_id, queue, executor, verifiers, phase, priority, crashes, due_at)
    SELECT n.id, n.queue, n.executor, n.verifiers, n.phase, n.priority, n.crashes, n.waiting_until FROM new_rows AS n WHERE n.status = 'pending' AND n.waiting_until IS NOT NULL
    ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$
--;;
CREATE FUNCTION tasks_derive_update() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = on AS $$
BEGIN
  IF EXISTS (SELECT FROM old_rows WHERE status = 'pending') THEN
    DELETE FROM timers WHERE task_id = ANY (ARRAY(SELECT o.id FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
      WHERE o.status = 'pending' AND (o.status, o.waiting_reason, o.waiting_until) IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until)));
    DELETE FROM ready WHERE task_id = ANY (ARRAY(SELECT o.id FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
      WHERE o.status = 'pending' AND (o.status, o.waiting_reason, o.waiting_until) IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until)));
  END IF;
  IF EXISTS (SELECT FROM new_rows WHERE status = 'pending') THEN
    INSERT INTO ready (task_id, queue, executor, verifiers, phase, priority, crashes, ready_at)
    SELECT n.id, n.queue, n.executor, n.verifiers, n.phase, n.priority, n.crashes, n.updated_at FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
    WHERE (o.status, o.waiting_reason, o.waiting_until) IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until) AND n.status = 'pending' AND n.waiting_reason IS NULL
    ON CONFLICT DO NOTHING;
    INSERT INTO timers (task_id, queue, executor, verifiers, phase, priority, crashes, due_at)
    SELECT n.id, n.queue, n.executor, n.verifiers, n.phase, n.priority, n.crashes, n.waiting_until FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
    WHERE (o.status, o.waiting_reason, o.waiting_until) IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until) AND n.status = 'pending' AND n.waiting_until IS NOT NULL
    ON CONFLICT DO NOTHING;
  END IF;
  RETURN NULL;
END $$
--;;
CREATE FUNCTION tasks_derive_delete() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = on AS $$
BEGIN
  DELETE FROM timers WHERE task_id = ANY (ARRAY(SELECT id FROM old_rows));
  DELETE FROM ready WHERE task_id = ANY (ARRAY(SELECT id FROM old_rows));
  RETURN NULL;
END $$
--;;
CREATE TRIGGER tasks_derive_insert AFTER INSERT ON tasks
REFERENCING NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION tasks_derive_insert()
--;;
CREATE TRIGGER tasks_derive_update AFTER UPDATE ON tasks
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION tasks_derive_update()
--;;
CREATE TRIGGER tasks_derive_delete AFTER DELETE ON tasks
REFERENCING OLD TABLE AS old_rows
FOR EACH STATEMENT EXECUTE FUNCTION tasks_derive_delete()
