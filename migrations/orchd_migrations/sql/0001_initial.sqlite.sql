-- orchd, schema 0001 for sqlite. A line with --;; ends a statement.
CREATE TABLE blobs (
    hash TEXT NOT NULL,
    size BIGINT NOT NULL,
    encoding TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (hash)
)
--;;
CREATE TABLE commits (
    last_position BIGINT NOT NULL,
    command_id TEXT NOT NULL,
    events INTEGER NOT NULL,
    recorded_at TEXT NOT NULL,
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
    recorded_at TEXT NOT NULL,
    PRIMARY KEY (position),
    CONSTRAINT events_stream_version_key UNIQUE (stream, version)
)
--;;
CREATE TABLE log_head (
    id INTEGER NOT NULL,
    position BIGINT NOT NULL,
    hash TEXT NOT NULL,
    recorded_at TEXT,
    PRIMARY KEY (id),
    CONSTRAINT log_head_one_row CHECK (id = 1)
)
--;;
CREATE TABLE breakers (
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    position TEXT NOT NULL,
    failures BIGINT NOT NULL,
    error TEXT NOT NULL,
    until BIGINT,
    worker TEXT,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (name),
    CONSTRAINT breakers_version_check CHECK (version >= 1),
    CONSTRAINT breakers_position_check CHECK ((position = 'closed' AND until IS NULL AND worker IS NULL) OR (position = 'open' AND until IS NOT NULL AND worker IS NULL) OR (position = 'half_open' AND until IS NOT NULL AND worker IS NOT NULL))
)
--;;
CREATE TABLE limits (
    name TEXT NOT NULL,
    PRIMARY KEY (name)
)
--;;
CREATE TABLE queues (
    name TEXT NOT NULL,
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
    task_id TEXT NOT NULL,
    queue TEXT NOT NULL,
    executor TEXT NOT NULL,
    verifiers TEXT NOT NULL,
    phase TEXT NOT NULL,
    priority BIGINT NOT NULL,
    crashes BIGINT NOT NULL,
    ready_at BIGINT NOT NULL,
    PRIMARY KEY (task_id)
)
 WITHOUT ROWID
--;;
CREATE INDEX ready_crashed ON ready (crashes, task_id) WHERE crashes > 0
--;;
CREATE INDEX ready_oldest ON ready (queue, ready_at)
--;;
CREATE INDEX ready_order ON ready (priority DESC, ready_at, task_id)
--;;
CREATE TABLE tasks (
    id TEXT NOT NULL,
    version BIGINT NOT NULL,
    namespace TEXT NOT NULL,
    status TEXT NOT NULL,
    phase TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority BIGINT NOT NULL,
    lane TEXT,
    executor TEXT NOT NULL,
    verifiers TEXT NOT NULL,
    description TEXT,
    description_blob TEXT,
    payload TEXT,
    payload_blob TEXT,
    metadata TEXT,
    labels TEXT,
    parent_id TEXT,
    idempotency_key TEXT,
    body_hash TEXT NOT NULL,
    traceparent TEXT,
    max_attempts BIGINT NOT NULL,
    execute_timeout_seconds DOUBLE,
    verify_timeout_seconds DOUBLE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    waiting_reason TEXT,
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
    worker TEXT,
    alone BOOLEAN NOT NULL,
    started_at BIGINT,
    deadline BIGINT,
    cancel_requested BOOLEAN NOT NULL,
    result TEXT,
    result_blob TEXT,
    result_metadata TEXT,
    confidence DOUBLE,
    error TEXT,
    error_class TEXT,
    fingerprint TEXT,
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
    task_id TEXT NOT NULL,
    queue TEXT NOT NULL,
    executor TEXT NOT NULL,
    verifiers TEXT NOT NULL,
    phase TEXT NOT NULL,
    priority BIGINT NOT NULL,
    crashes BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (task_id)
)
 WITHOUT ROWID
--;;
CREATE INDEX timers_due ON timers (due_at)
--;;
CREATE TABLE workers (
    id TEXT NOT NULL,
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
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events is written once: UPDATE refused'); END
--;;
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events is written once: DELETE refused'); END
--;;
CREATE TRIGGER commits_refuse_update BEFORE UPDATE ON commits
BEGIN SELECT RAISE(ABORT, 'commits is written once: UPDATE refused'); END
--;;
CREATE TRIGGER commits_refuse_delete BEFORE DELETE ON commits
BEGIN SELECT RAISE(ABORT, 'commits is written once: DELETE refused'); END
--;;
CREATE TRIGGER blobs_refuse_update BEFORE UPDATE ON blobs
BEGIN SELECT RAISE(ABORT, 'blobs is written once: UPDATE refused'); END
--;;
CREATE TRIGGER events_refuse_same_position BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
BEGIN SELECT RAISE(ABORT, 'events is written once: REPLACE refused'); END
--;;
CREATE TRIGGER events_refuse_same_version BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM events WHERE stream = NEW.stream AND version = NEW.version)
BEGIN SELECT RAISE(ABORT, 'events is written once: REPLACE refused'); END
--;;
CREATE TRIGGER commits_refuse_same_position BEFORE INSERT ON commits
WHEN EXISTS (SELECT 1 FROM commits WHERE last_position = NEW.last_position)
BEGIN SELECT RAISE(ABORT, 'commits is written once: REPLACE refused'); END
--;;
CREATE TRIGGER commits_refuse_same_command BEFORE INSERT ON commits
WHEN EXISTS (SELECT 1 FROM commits WHERE command_id = NEW.command_id)
BEGIN SELECT RAISE(ABORT, 'commits is written once: REPLACE refused'); END
--;;
CREATE TRIGGER tasks_derive_insert AFTER INSERT ON tasks WHEN NEW.status = 'pending'
BEGIN
  INSERT INTO ready (task_id, queue, executor, verifiers, phase, priority, crashes, ready_at)
  SELECT NEW.id, NEW.queue, NEW.executor, NEW.verifiers, NEW.phase, NEW.priority, NEW.crashes, NEW.updated_at WHERE NEW.status = 'pending' AND NEW.waiting_reason IS NULL;
  INSERT INTO timers (task_id, queue, executor, verifiers, phase, priority, crashes, due_at)
  SELECT NEW.id, NEW.queue, NEW.executor, NEW.verifiers, NEW.phase, NEW.priority, NEW.crashes, NEW.waiting_until WHERE NEW.status = 'pending' AND NEW.waiting_until IS NOT NULL;
END
--;;
CREATE TRIGGER tasks_derive_update AFTER UPDATE ON tasks WHEN (OLD.status = 'pending' OR NEW.status = 'pending') AND (OLD.status IS NOT NEW.status OR OLD.waiting_reason IS NOT NEW.waiting_reason OR OLD.waiting_until IS NOT NEW.waiting_until)
BEGIN
  DELETE FROM timers WHERE task_id = OLD.id;
  DELETE FROM ready WHERE task_id = OLD.id;
  INSERT INTO ready (task_id, queue, executor, verifiers, phase, priority, crashes, ready_at)
  SELECT NEW.id, NEW.queue, NEW.executor, NEW.verifiers, NEW.phase, NEW.priority, NEW.crashes, NEW.updated_at WHERE NEW.status = 'pending' AND NEW.waiting_reason IS NULL;
  INSERT INTO timers (task_id, queue, executor, verifiers, phase, priority, crashes, due_at)
  SELECT NEW.id, NEW.queue, NEW.executor, NEW.verifiers, NEW.phase, NEW.priority, NEW.crashes, NEW.waiting_until WHERE NEW.status = 'pending' AND NEW.waiting_until IS NOT NULL;
END
--;;
CREATE TRIGGER tasks_derive_delete AFTER DELETE ON tasks
BEGIN
  DELETE FROM timers WHERE task_id = OLD.id;
  DELETE FROM ready WHERE task_id = OLD.id;
END
