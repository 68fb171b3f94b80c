-- orchd, schema 0004 for postgresql. A line with --;; ends a statement.
DROP INDEX tasks_newest
--;;
DROP INDEX tasks_by_status
--;;
DROP INDEX tasks_by_queue
--;;
DROP INDEX tasks_by_executor
--;;
DROP INDEX tasks_held
--;;
DROP INDEX tasks_cancel_requested
--;;
CREATE INDEX tasks_newest ON tasks (created_at)
--;;
CREATE INDEX tasks_by_queue ON tasks (queue, created_at)
--;;
CREATE INDEX tasks_by_executor ON tasks (executor, created_at)
--;;
CREATE TABLE running (
	task_id TEXT COLLATE "C" NOT NULL, 
	worker TEXT COLLATE "C" NOT NULL, 
	cancel_requested BOOLEAN NOT NULL, 
	PRIMARY KEY (task_id)
)
 WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05)
--;;
CREATE TABLE aside (
	task_id TEXT COLLATE "C" NOT NULL, 
	status TEXT COLLATE "C" NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (task_id)
)
 WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05)
--;;
CREATE INDEX running_by_worker ON running (worker)
--;;
CREATE INDEX running_cancel_requested ON running (worker, task_id) WHERE cancel_requested
--;;
CREATE INDEX aside_by_status ON aside (status, created_at, task_id)
--;;
INSERT INTO running (task_id, worker, cancel_requested)
SELECT id, worker, cancel_requested FROM tasks WHERE (status = 'in_progress')
--;;
INSERT INTO aside (task_id, status, created_at)
SELECT id, status, created_at FROM tasks WHERE (status = 'failed' OR status = 'cancelled' OR status = 'discarded' OR status = 'pending' AND waiting_reason IS NOT NULL AND waiting_until IS NULL)
--;;
ALTER TABLE tasks SET (fillfactor = 50)
--;;
CREATE OR REPLACE FUNCTION tasks_derive_insert() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = on AS $$
BEGIN
    INSERT INTO ready (task_id, queue, executor, verifiers, phase, priority, crashes, ready_at)
    SELECT n.id, n.queue, n.executor, n.verifiers, n.phase, n.priority, n.crashes, n.updated_at FROM new_rows AS n WHERE n.status = 'pending' AND n.waiting_reason IS NULL
    ON CONFLICT DO NOTHING;
    INSERT INTO timers (task_id, queue, executor, verifiers, phase, priority, crashes, due_at)
    SELECT n.id, n.queue, n.executor, n.verifiers, n.phase, n.priority, n.crashes, n.waiting_until FROM new_rows AS n WHERE n.status = 'pending' AND n.waiting_until IS NOT NULL
    ON CONFLICT DO NOTHING;
  IF EXISTS (SELECT FROM new_rows WHERE (status = 'in_progress')) THEN
    INSERT INTO running (task_id, worker, cancel_requested)
    SELECT n.id, n.worker, n.cancel_requested FROM new_rows AS n
    WHERE (n.status = 'in_progress')
    ON CONFLICT DO NOTHING;
  END IF;
  IF EXISTS (SELECT FROM new_rows WHERE (status = 'failed' OR status = 'cancelled' OR status = 'discarded' OR status = 'pending' AND waiting_reason IS NOT NULL AND waiting_until IS NULL)) THEN
    INSERT INTO aside (task_id, status, created_at)
    SELECT n.id, n.status, n.created_at FROM new_rows AS n
    WHERE (n.status = 'failed' OR n.status = 'cancelled' OR n.status = 'discarded' OR n.status = 'pending' AND n.waiting_reason IS NOT NULL AND n.waiting_until IS NULL)
    ON CONFLICT DO NOTHING;
  END IF;
  RETURN NULL;
END $$
--;;
CREATE OR REPLACE FUNCTION tasks_derive_update() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = on AS $$
BEGIN
  IF EXISTS (SELECT FROM old_rows WHERE status = 'pending') THEN
    DELETE FROM timers WHERE task_id = ANY (ARRAY(SELECT o.id FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
      WHERE o.status = 'pending' AND (o.status, o.waiting_reason, o.waiting_until)
      IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until)));
    DELETE FROM ready WHERE task_id = ANY (ARRAY(SELECT o.id FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
      WHERE o.status = 'pending' AND (o.status, o.waiting_reason, o.waiting_until)
      IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until)));
  END IF;
  IF EXISTS (SELECT FROM new_rows WHERE status = 'pending') THEN
    INSERT INTO ready (task_id, queue, executor, verifiers, phase, priority, crashes, ready_at)
    SELECT n.id, n.queue, n.executor, n.verifiers, n.phase, n.priority, n.crashes, n.updated_at FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
    WHERE (o.status, o.waiting_reason, o.waiting_until)
      IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until) AND n.status = 'pending' AND n.waiting_reason IS NULL
    ON CONFLICT DO NOTHING;
    INSERT INTO timers (task_id, queue, executor, verifiers, phase, priority, crashes, due_at)
    SELECT n.id, n.queue, n.executor, n.verifiers, n.phase, n.priority, n.crashes, n.waiting_until FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
    WHERE (o.status, o.waiting_reason, o.waiting_until)
      IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until) AND n.status = 'pending' AND n.waiting_until IS NOT NULL
    ON CONFLICT DO NOTHING;
  END IF;
  IF EXISTS (SELECT FROM old_rows WHERE (status = 'in_progress')) THEN
    DELETE FROM running WHERE task_id = ANY (ARRAY(SELECT o.id FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
      WHERE (o.status = 'in_progress') AND (o.status, o.worker, o.cancel_requested)
      IS DISTINCT FROM (n.status, n.worker, n.cancel_requested)));
  END IF;
  IF EXISTS (SELECT FROM new_rows WHERE (status = 'in_progress')) THEN
    INSERT INTO running (task_id, worker, cancel_requested)
    SELECT n.id, n.worker, n.cancel_requested FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
    WHERE (n.status = 'in_progress') AND (o.status, o.worker, o.cancel_requested)
      IS DISTINCT FROM (n.status, n.worker, n.cancel_requested)
    ON CONFLICT DO NOTHING;
  END IF;
  IF EXISTS (SELECT FROM old_rows WHERE (status = 'failed' OR status = 'cancelled' OR status = 'discarded' OR status = 'pending' AND waiting_reason IS NOT NULL AND waiting_until IS NULL)) THEN
    DELETE FROM aside WHERE task_id = ANY (ARRAY(SELECT o.id FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
      WHERE (o.status = 'failed' OR o.status = 'cancelled' OR o.status = 'discarded' OR o.status = 'pending' AND o.waiting_reason IS NOT NULL AND o.waiting_until IS NULL) AND (o.status, o.waiting_reason, o.waiting_until)
      IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until)));
  END IF;
  IF EXISTS (SELECT FROM new_rows WHERE (status = 'failed' OR status = 'cancelled' OR status = 'discarded' OR status = 'pending' AND waiting_reason IS NOT NULL AND waiting_until IS NULL)) THEN
    INSERT INTO aside (task_id, status, created_at)
    SELECT n.id, n.status, n.created_at FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
    WHERE (n.status = 'failed' OR n.status = 'cancelled' OR n.status = 'discarded' OR n.status = 'pending' AND n.waiting_reason IS NOT NULL AND n.waiting_until IS NULL) AND (o.status, o.waiting_reason, o.waiting_until)
      IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until)
    ON CONFLICT DO NOTHING;
  END IF;
  RETURN NULL;
END $$
--;;
CREATE OR REPLACE FUNCTION tasks_derive_delete() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = on AS $$
BEGIN
  DELETE FROM timers WHERE task_id = ANY (ARRAY(SELECT id FROM old_rows));
  DELETE FROM ready WHERE task_id = ANY (ARRAY(SELECT id FROM old_rows));
  IF EXISTS (SELECT FROM old_rows WHERE (status = 'in_progress')) THEN
    DELETE FROM running WHERE task_id = ANY (ARRAY(SELECT o.id FROM old_rows AS o
      WHERE (o.status = 'in_progress')));
  END IF;
  IF EXISTS (SELECT FROM old_rows WHERE (status = 'failed' OR status = 'cancelled' OR status = 'discarded' OR status = 'pending' AND waiting_reason IS NOT NULL AND waiting_until IS NULL)) THEN
    DELETE FROM aside WHERE task_id = ANY (ARRAY(SELECT o.id FROM old_rows AS o
      WHERE (o.status = 'failed' OR o.status = 'cancelled' OR o.status = 'discarded' OR o.status = 'pending' AND o.waiting_reason IS NOT NULL AND o.waiting_until IS NULL)));
  END IF;
  RETURN NULL;
END $$
