-- orchd, schema 0004 for sqlite. A line with --;; ends a statement.
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
	task_id TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	cancel_requested BOOLEAN NOT NULL, 
	PRIMARY KEY (task_id)
)
 WITHOUT ROWID
--;;
CREATE TABLE aside (
	task_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (task_id)
)
 WITHOUT ROWID
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
DROP TRIGGER tasks_derive_insert
--;;
DROP TRIGGER tasks_derive_update
--;;
DROP TRIGGER tasks_derive_delete
--;;
CREATE TRIGGER tasks_derive_insert AFTER INSERT ON tasks WHEN NEW.status = 'pending'
BEGIN
  INSERT INTO ready (task_id, queue, executor, verifiers, phase, priority, crashes, ready_at)
  SELECT NEW.id, NEW.queue, NEW.executor, NEW.verifiers, NEW.phase, NEW.priority, NEW.crashes, NEW.updated_at WHERE NEW.status = 'pending' AND NEW.waiting_reason IS NULL;
  INSERT INTO timers (task_id, queue, executor, verifiers, phase, priority, crashes, due_at)
  SELECT NEW.id, NEW.queue, NEW.executor, NEW.verifiers, NEW.phase, NEW.priority, NEW.crashes, NEW.waiting_until WHERE NEW.status = 'pending' AND NEW.waiting_until IS NOT NULL;
END
--;;
CREATE TRIGGER tasks_derive_update AFTER UPDATE ON tasks WHEN NEW.status = 'pending' AND (OLD.status IS NOT NEW.status OR OLD.waiting_reason IS NOT NEW.waiting_reason OR OLD.waiting_until IS NOT NEW.waiting_until)
BEGIN
  DELETE FROM timers WHERE task_id = OLD.id;
  DELETE FROM ready WHERE task_id = OLD.id;
  INSERT INTO ready (task_id, queue, executor, verifiers, phase, priority, crashes, ready_at)
  SELECT NEW.id, NEW.queue, NEW.executor, NEW.verifiers, NEW.phase, NEW.priority, NEW.crashes, NEW.updated_at WHERE NEW.status = 'pending' AND NEW.waiting_reason IS NULL;
  INSERT INTO timers (task_id, queue, executor, verifiers, phase, priority, crashes, due_at)
  SELECT NEW.id, NEW.queue, NEW.executor, NEW.verifiers, NEW.phase, NEW.priority, NEW.crashes, NEW.waiting_until WHERE NEW.status = 'pending' AND NEW.waiting_until IS NOT NULL;
END
--;;
CREATE TRIGGER tasks_derive_leave AFTER UPDATE ON tasks WHEN OLD.status = 'pending' AND NEW.status <> 'pending'
BEGIN
  DELETE FROM timers WHERE task_id = OLD.id;
  DELETE FROM ready WHERE task_id = OLD.id;
END
--;;
CREATE TRIGGER tasks_derive_delete AFTER DELETE ON tasks WHEN TRUE
BEGIN
  DELETE FROM timers WHERE task_id = OLD.id;
  DELETE FROM ready WHERE task_id = OLD.id;
END
--;;
CREATE TRIGGER tasks_running_insert AFTER INSERT ON tasks WHEN (NEW.status = 'in_progress')
BEGIN
  INSERT INTO running (task_id, worker, cancel_requested)
  VALUES (NEW.id, NEW.worker, NEW.cancel_requested);
END
--;;
CREATE TRIGGER tasks_running_update AFTER UPDATE ON tasks WHEN (NEW.status = 'in_progress') AND (OLD.status IS NOT NEW.status OR OLD.worker IS NOT NEW.worker OR OLD.cancel_requested IS NOT NEW.cancel_requested)
BEGIN
  DELETE FROM running WHERE task_id = OLD.id;
  INSERT INTO running (task_id, worker, cancel_requested)
  VALUES (NEW.id, NEW.worker, NEW.cancel_requested);
END
--;;
CREATE TRIGGER tasks_running_leave AFTER UPDATE ON tasks WHEN (OLD.status = 'in_progress') AND NOT (NEW.status = 'in_progress')
BEGIN
  DELETE FROM running WHERE task_id = OLD.id;
END
--;;
CREATE TRIGGER tasks_running_delete AFTER DELETE ON tasks WHEN (OLD.status = 'in_progress')
BEGIN
  DELETE FROM running WHERE task_id = OLD.id;
END
--;;
CREATE TRIGGER tasks_aside_insert AFTER INSERT ON tasks WHEN (NEW.status = 'failed' OR NEW.status = 'cancelled' OR NEW.status = 'discarded' OR NEW.status = 'pending' AND NEW.waiting_reason IS NOT NULL AND NEW.waiting_until IS NULL)
BEGIN
  INSERT INTO aside (task_id, status, created_at)
  VALUES (NEW.id, NEW.status, NEW.created_at);
END
--;;
CREATE TRIGGER tasks_aside_update AFTER UPDATE ON tasks WHEN (NEW.status = 'failed' OR NEW.status = 'cancelled' OR NEW.status = 'discarded' OR NEW.status = 'pending' AND NEW.waiting_reason IS NOT NULL AND NEW.waiting_until IS NULL) AND (OLD.status IS NOT NEW.status OR OLD.waiting_reason IS NOT NEW.waiting_reason OR OLD.waiting_until IS NOT NEW.waiting_until)
BEGIN
  DELETE FROM aside WHERE task_id = OLD.id;
  INSERT INTO aside (task_id, status, created_at)
  VALUES (NEW.id, NEW.status, NEW.created_at);
END
--;;
CREATE TRIGGER tasks_aside_leave AFTER UPDATE ON tasks WHEN (OLD.status = 'failed' OR OLD.status = 'cancelled' OR OLD.status = 'discarded' OR OLD.status = 'pending' AND OLD.waiting_reason IS NOT NULL AND OLD.waiting_until IS NULL) AND NOT (NEW.status = 'failed' OR NEW.status = 'cancelled' OR NEW.status = 'discarded' OR NEW.status = 'pending' AND NEW.waiting_reason IS NOT NULL AND NEW.waiting_until IS NULL)
BEGIN
  DELETE FROM aside WHERE task_id = OLD.id;
END
--;;
CREATE TRIGGER tasks_aside_delete AFTER DELETE ON tasks WHEN (OLD.status = 'failed' OR OLD.status = 'cancelled' OR OLD.status = 'discarded' OR OLD.status = 'pending' AND OLD.waiting_reason IS NOT NULL AND OLD.waiting_until IS NULL)
BEGIN
  DELETE FROM aside WHERE task_id = OLD.id;
END
