-- orchd, schema 0003 for sqlite. A line with --;; ends a statement.
CREATE TABLE erasures (
	position BIGINT NOT NULL, 
	data_hash TEXT NOT NULL, 
	data TEXT NOT NULL, 
	erased_by BIGINT NOT NULL, 
	PRIMARY KEY (position)
)
--;;
CREATE TRIGGER erasures_refuse_update BEFORE UPDATE ON erasures
BEGIN SELECT RAISE(ABORT, 'erasures is written once: UPDATE refused'); END
--;;
CREATE TRIGGER erasures_refuse_delete BEFORE DELETE ON erasures
BEGIN SELECT RAISE(ABORT, 'erasures is written once: DELETE refused'); END
--;;
CREATE TRIGGER erasures_refuse_same_position BEFORE INSERT ON erasures
WHEN EXISTS (SELECT 1 FROM erasures WHERE position = NEW.position)
BEGIN SELECT RAISE(ABORT, 'erasures is written once: REPLACE refused'); END
--;;
DROP TRIGGER events_refuse_update
--;;
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events
WHEN NOT (NEW.position IS OLD.position AND NEW.stream IS OLD.stream AND NEW.version IS OLD.version AND NEW.type IS OLD.type AND NEW.meta IS OLD.meta AND NEW.recorded_at IS OLD.recorded_at
  AND EXISTS (SELECT 1 FROM erasures WHERE position = OLD.position AND data = NEW.data))
BEGIN SELECT RAISE(ABORT, 'events is written once: UPDATE refused'); END
--;;
CREATE INDEX tasks_by_description_blob ON tasks (description_blob) WHERE description_blob IS NOT NULL
--;;
CREATE INDEX tasks_by_payload_blob ON tasks (payload_blob) WHERE payload_blob IS NOT NULL
--;;
CREATE INDEX tasks_by_result_blob ON tasks (result_blob) WHERE result_blob IS NOT NULL
