"""The tables of the disk tier's index."""

LAYOUT = 3
"""Number of the layout below. An index of another number is thrown away: it is only a cache."""

TABLES = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice: a purge means the rows up to the last one there was
    key TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    grp TEXT NOT NULL,
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    cost REAL NOT NULL,
    created REAL NOT NULL,
    used REAL NOT NULL,
    formula INTEGER NOT NULL,  -- progress.formula as it was when base and rank were computed
    base REAL NOT NULL,
    rank REAL NOT NULL,
    use INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL,  -- reserved: being written; ready; doomed: purged while being written
    file TEXT  -- NULL: the value is in the table inline
);
CREATE INDEX by_rank ON entries (formula, rank, use) WHERE state = 'ready';
CREATE INDEX by_tenant ON entries (tenant, formula, rank, use) WHERE state = 'ready';
CREATE INDEX by_used ON entries (used) WHERE state = 'ready';
CREATE INDEX by_created ON entries (created) WHERE state = 'ready';
CREATE INDEX unfinished ON entries (used) WHERE state <> 'ready';
CREATE INDEX by_group ON entries (grp);

-- Small values, apart from their rows: sliding a timer rewrites the row, but not 32 KiB.
CREATE TABLE inline (id INTEGER PRIMARY KEY, value BLOB NOT NULL);

-- VersionedState by triggers, so that no way of changing a row can forget them.
-- Kind '' is what is being written.
CREATE TABLE totals (kind TEXT PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TRIGGER came AFTER INSERT ON entries BEGIN
    INSERT INTO totals VALUES (CASE NEW.state WHEN 'ready' THEN NEW.kind ELSE '' END, 1, NEW.size)
        ON CONFLICT (kind) DO UPDATE
        SET entries = entries + excluded.entries, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER went AFTER DELETE ON entries BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.size
        WHERE kind = CASE OLD.state WHEN 'ready' THEN OLD.kind ELSE '' END;
    DELETE FROM inline WHERE id = OLD.id;
END;
CREATE TRIGGER finished AFTER UPDATE OF state ON entries
    WHEN NEW.state = 'ready' AND OLD.state <> 'ready' BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.size WHERE kind = '';
    INSERT INTO totals VALUES (NEW.kind, 1, NEW.size)
        ON CONFLICT (kind) DO UPDATE
        SET entries = entries + excluded.entries, bytes = bytes + excluded.bytes;
END;

-- What is ready of each tenant.
CREATE TABLE tenants (tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TRIGGER came_ready AFTER INSERT ON entries WHEN NEW.state = 'ready' BEGIN
    INSERT INTO tenants VALUES (NEW.tenant, NEW.size) ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER became_ready AFTER UPDATE OF state ON entries WHEN NEW.state = 'ready' AND OLD.state <> 'ready' BEGIN
    INSERT INTO tenants VALUES (NEW.tenant, NEW.size) ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER ready_went AFTER DELETE ON entries WHEN OLD.state = 'ready' BEGIN
    UPDATE tenants SET bytes = bytes - OLD.size WHERE tenant = OLD.tenant;
END;

-- One row: the ranking's floor (L of GreedyDual-Size), the latest time of use, a count of uses; the name of the ranking
-- and how often it changed; which index this is; the last purge that is not in the table of purges any more.
CREATE TABLE progress (
    floor REAL NOT NULL,
    latest REAL NOT NULL,
    uses INTEGER NOT NULL,
    ranking TEXT NOT NULL,
    formula INTEGER NOT NULL,
    identity TEXT NOT NULL,
    forgotten INTEGER NOT NULL
);
INSERT INTO progress VALUES (0.0, 0.0, 0, '', 0, hex(randomblob(16)), 0);

-- Every recent purge: what it means, who made it, the last row that there was then, whether all of them have gone.
CREATE TABLE purges (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    pattern TEXT NOT NULL,
    origin TEXT NOT NULL,
    last INTEGER NOT NULL,
    started REAL NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX unfinished_purges ON purges (sequence) WHERE NOT finished;

-- The processes that have a tier above this one, and the last purge that each has carried out there.
CREATE TABLE listeners (origin TEXT PRIMARY KEY, heard INTEGER NOT NULL);
"""
