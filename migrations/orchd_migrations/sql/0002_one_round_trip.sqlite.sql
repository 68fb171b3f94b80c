-- orchd, schema 0002 for sqlite. A line with --;; ends a statement.
ALTER TABLE commits ADD COLUMN rules INTEGER DEFAULT 1 NOT NULL
