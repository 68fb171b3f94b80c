-- orchd, schema 0003 for postgresql. A line with --;; ends a statement.
CREATE TABLE erasures (
	position BIGINT NOT NULL, 
	data_hash TEXT NOT NULL, 
	data TEXT NOT NULL, 
	erased_by BIGINT NOT NULL, 
	PRIMARY KEY (position)
)
--;;
CREATE TRIGGER erasures_refuse_update BEFORE UPDATE ON erasures
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE TRIGGER erasures_refuse_delete BEFORE DELETE ON erasures
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE TRIGGER erasures_refuse_truncate BEFORE TRUNCATE ON erasures
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()
--;;
CREATE FUNCTION eventstore_erase() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.position, NEW.stream, NEW.version, NEW.type, NEW.meta, NEW.recorded_at)
    IS NOT DISTINCT FROM (OLD.position, OLD.stream, OLD.version, OLD.type, OLD.meta, OLD.recorded_at)
    AND EXISTS (SELECT FROM erasures WHERE position = OLD.position AND data = NEW.data)
  THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'events is written once: UPDATE refused';
END $$
--;;
DROP TRIGGER events_refuse_update ON events
--;;
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events
FOR EACH ROW EXECUTE FUNCTION eventstore_erase()
--;;
CREATE INDEX tasks_by_description_blob ON tasks (description_blob) WHERE description_blob IS NOT NULL
--;;
CREATE INDEX tasks_by_payload_blob ON tasks (payload_blob) WHERE payload_blob IS NOT NULL
--;;
CREATE INDEX tasks_by_result_blob ON tasks (result_blob) WHERE result_blob IS NOT NULL
--;;
CREATE PROCEDURE eventstore_append_and_commit(command text, item_count int, new_events json, new_counters json, new_blobs json, bare boolean, wish json, tasks_inserts json, tasks_updates json, tasks_narrow json, tasks_keys text[], queues_inserts json, queues_updates json, queues_narrow json, queues_keys text[], breakers_inserts json, breakers_updates json, breakers_narrow json, breakers_keys text[], INOUT answer text)
LANGUAGE plpgsql
AS $$
BEGIN
  answer := eventstore_append(command, item_count, new_events, new_counters, new_blobs, bare, wish, tasks_inserts, tasks_updates, tasks_narrow, tasks_keys, queues_inserts, queues_updates, queues_narrow, queues_keys, breakers_inserts, breakers_updates, breakers_narrow, breakers_keys);
  COMMIT;
END $$
