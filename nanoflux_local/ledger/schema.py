"""The tables, as migrations that are applied in the order in which this file defines them; their numbers have gaps and
are not in order. Never edit a released migration: add a new one.

Documents (configurations, records, requests, replies) are canonical JSON, stored with their SHA-256. Values that are
filtered or summed also have columns.
"""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("nanoflux")


@migrations()
def m001_calls(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE calls (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            model TEXT NOT NULL,
            run TEXT NOT NULL,
            request TEXT NOT NULL,
            reply TEXT NOT NULL,
            reply_hash TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            usd REAL NOT NULL,
            seconds REAL NOT NULL,
            at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX calls_run ON calls (run, kind);
        """
    )


@migrations()
def m002_runs(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE runs (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            domain TEXT NOT NULL,
            status TEXT NOT NULL,
            message TEXT NOT NULL,
            target INTEGER NOT NULL,
            max_turns INTEGER NOT NULL,
            config TEXT NOT NULL,
            config_hash TEXT NOT NULL,
            environment TEXT NOT NULL,
            seconds REAL NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL
        ) STRICT;
        CREATE TABLE turns (
            id INTEGER PRIMARY KEY,
            run TEXT NOT NULL REFERENCES runs (id),
            number INTEGER NOT NULL,
            outcome TEXT NOT NULL,
            kept INTEGER NOT NULL,
            record TEXT NOT NULL,
            record_hash TEXT NOT NULL,
            at TEXT NOT NULL,
            UNIQUE (run, number)
        ) STRICT;
        CREATE TABLE turn_calls (
            turn INTEGER NOT NULL REFERENCES turns (id),
            position INTEGER NOT NULL,
            call INTEGER NOT NULL REFERENCES calls (id),
            PRIMARY KEY (turn, position)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE examples (
            id TEXT PRIMARY KEY,
            run TEXT NOT NULL REFERENCES runs (id),
            turn INTEGER NOT NULL,
            reason TEXT NOT NULL,
            question TEXT NOT NULL,
            solution TEXT NOT NULL,
            answer TEXT NOT NULL,
            content_hash TEXT NOT NULL,
            at TEXT NOT NULL,
            UNIQUE (run, turn)
        ) STRICT;
        """
    )


@migrations()
def m003_data(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE datasets (
            name TEXT PRIMARY KEY,
            source TEXT NOT NULL,
            source_hash TEXT NOT NULL,
            items INTEGER NOT NULL,
            skipped INTEGER NOT NULL,
            at TEXT NOT NULL
        ) STRICT;
        CREATE TABLE items (
            dataset TEXT NOT NULL REFERENCES datasets (name),
            position INTEGER NOT NULL,
            id TEXT NOT NULL,
            split TEXT NOT NULL,
            record TEXT NOT NULL,
            record_hash TEXT NOT NULL,
            PRIMARY KEY (dataset, position),
            UNIQUE (dataset, id)
        ) STRICT;
        CREATE INDEX items_split ON items (dataset, split);
        """
    )


@migrations()
def m004_training_and_evaluation(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE trainings (
            id TEXT PRIMARY KEY,
            run TEXT NOT NULL,
            base TEXT NOT NULL,
            status TEXT NOT NULL,
            adapter TEXT NOT NULL,
            data_hash TEXT NOT NULL,
            settings TEXT NOT NULL,
            result TEXT NOT NULL,
            started_at TEXT NOT NULL,
            updated_at TEXT NOT NULL
        ) STRICT;
        CREATE TABLE training_events (
            id INTEGER PRIMARY KEY,
            training TEXT NOT NULL REFERENCES trainings (id),
            kind TEXT NOT NULL,
            step INTEGER NOT NULL,
            event TEXT NOT NULL,
            at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX training_events_training ON training_events (training, id);
        CREATE TABLE evaluations (
            id TEXT PRIMARY KEY,
            model TEXT NOT NULL,
            adapter TEXT NOT NULL,
            data TEXT NOT NULL,
            split TEXT NOT NULL,
            status TEXT NOT NULL,
            settings TEXT NOT NULL,
            result TEXT NOT NULL,
            started_at TEXT NOT NULL,
            updated_at TEXT NOT NULL
        ) STRICT;
        CREATE TABLE evaluation_items (
            evaluation TEXT NOT NULL REFERENCES evaluations (id),
            repeat INTEGER NOT NULL,
            item TEXT NOT NULL,
            call INTEGER NOT NULL REFERENCES calls (id),
            reading TEXT NOT NULL,
            verdict TEXT NOT NULL,
            PRIMARY KEY (evaluation, repeat, item)
        ) STRICT, WITHOUT ROWID;
        """
    )


@migrations()
def m005_jobs(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE jobs (
            id INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            subject TEXT NOT NULL,
            pid INTEGER NOT NULL,
            boot TEXT NOT NULL,
            state TEXT NOT NULL,
            message TEXT NOT NULL,
            started_at TEXT NOT NULL,
            heartbeat_at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX jobs_subject ON jobs (kind, subject);
        """
    )


@migrations()
def m012_control(db: Database) -> None:
    """Adds two columns. `wish` stores a request to a worker to pause or stop; the request is stored in the row of the
    worker's execution, so that a later worker does not see it. `role` stores a call's role, so that a role's costs can
    be added up for its budget.
    """
    db.executescript(
        """
        ALTER TABLE jobs ADD COLUMN wish TEXT NOT NULL DEFAULT '';
        ALTER TABLE calls ADD COLUMN role TEXT NOT NULL DEFAULT '';
        """
    )


@migrations()
def m014_faults(db: Database) -> None:
    """Stores failed requests and their cost; `told` is the error message. A retry that succeeds is stored as a call."""
    db.executescript(
        """
        CREATE TABLE faults (
            id INTEGER PRIMARY KEY,
            run TEXT NOT NULL,
            role TEXT NOT NULL,
            model TEXT NOT NULL,
            kind TEXT NOT NULL,
            told TEXT NOT NULL,
            raw TEXT NOT NULL,
            tokens INTEGER NOT NULL,
            usd REAL NOT NULL,
            seconds REAL NOT NULL,
            at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX faults_run ON faults (run, kind);
        """
    )


@migrations()
def m017_trainings(db: Database) -> None:
    """Stores why a training run ended, its wall-clock time over all its processes, and, in `plan`, what a resume needs
    in addition to the settings.
    """
    db.executescript(
        """
        ALTER TABLE trainings ADD COLUMN message TEXT NOT NULL DEFAULT '';
        ALTER TABLE trainings ADD COLUMN seconds REAL NOT NULL DEFAULT 0.0;
        ALTER TABLE trainings ADD COLUMN plan TEXT NOT NULL DEFAULT '{}';
        """
    )


@migrations()
def m016_rounds(db: Database) -> None:
    """Stores series of rounds. Also stores the times of an execution's start and of its last heartbeat, in seconds of
    the machine's monotonic clock; the wall-clock time of the execution and the age of its heartbeat are computed from
    them.
    """
    db.executescript(
        """
        ALTER TABLE jobs ADD COLUMN began_s REAL NOT NULL DEFAULT 0.0;
        ALTER TABLE jobs ADD COLUMN beat_s REAL NOT NULL DEFAULT 0.0;
        CREATE TABLE series (
            id TEXT PRIMARY KEY,
            status TEXT NOT NULL,
            message TEXT NOT NULL,
            settings TEXT NOT NULL,
            seconds REAL NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL
        ) STRICT;
        CREATE TABLE rounds (
            series TEXT NOT NULL REFERENCES series (id),
            number INTEGER NOT NULL,
            run TEXT NOT NULL,
            adapter TEXT NOT NULL,
            evaluation TEXT NOT NULL,
            result TEXT NOT NULL,
            at TEXT NOT NULL,
            PRIMARY KEY (series, number)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX rounds_run ON rounds (run);
        """
    )


@migrations()
def m015_size(db: Database) -> None:
    """Keeps ledgers with a million calls fast. A run's summary is read from indexes alone, since each row with texts
    fills a page. A turn's row has the outcomes of its attempts (`attempts`), the number of calls that it used (`uses`),
    and the number of those among them that the run itself made and that no earlier turn had used (`fresh`). Packed
    texts are in a separate table; their columns in `calls` are then empty. Environments recorded before this migration
    get no hash, since a hash computed later would prove nothing. CROSS JOIN keeps SQLite from scanning all turns of a
    run for each of its calls.
    """
    db.executescript(
        """
        ALTER TABLE runs ADD COLUMN environment_hash TEXT NOT NULL DEFAULT '';
        ALTER TABLE turns ADD COLUMN attempts TEXT NOT NULL DEFAULT '';
        ALTER TABLE turns ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE turns ADD COLUMN fresh INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX turn_calls_call ON turn_calls (call);
        DROP INDEX calls_run;
        CREATE INDEX calls_run ON calls (run, id, role, prompt_tokens, completion_tokens, usd, seconds);
        UPDATE turns SET
            attempts = coalesce((
                SELECT group_concat(json_extract(attempt.value, '$.outcome'), ' ')
                FROM json_each(iif(json_valid(record), record, '{}'), '$.attempts') AS attempt
            ), ''),
            uses = (SELECT count(*) FROM turn_calls WHERE turn_calls.turn = turns.id),
            fresh = (
                SELECT count(DISTINCT calls.id) FROM turn_calls CROSS JOIN calls ON calls.id = turn_calls.call
                WHERE turn_calls.turn = turns.id AND calls.run = turns.run AND NOT EXISTS (
                    SELECT 1 FROM turn_calls AS others CROSS JOIN turns AS earlier ON earlier.id = others.turn
                    WHERE others.call = calls.id AND earlier.run = turns.run AND earlier.number < turns.number
                )
            );
        CREATE INDEX turns_tally ON turns (run, attempts, kept, uses, fresh);
        CREATE TABLE dictionaries (
            id INTEGER PRIMARY KEY,
            content BLOB NOT NULL,
            at TEXT NOT NULL
        ) STRICT;
        CREATE TABLE packs (
            call INTEGER PRIMARY KEY REFERENCES calls (id),
            dictionary INTEGER NOT NULL,
            request BLOB NOT NULL,
            reply BLOB NOT NULL
        ) STRICT;
        """
    )


@migrations()
def m008_experiments(db: Database) -> None:
    """Stores a reply's soft mark next to its strict one ("" if no judge was asked). Also stores experiments: an
    experiment is a grid of cells that run separately, so that a killed experiment resumes at the cell it had reached.
    """
    db.executescript(
        """
        ALTER TABLE evaluation_items ADD COLUMN soft TEXT NOT NULL DEFAULT '';
        CREATE TABLE experiments (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            scale TEXT NOT NULL,
            status TEXT NOT NULL,
            message TEXT NOT NULL,
            plan TEXT NOT NULL,
            seconds REAL NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL
        ) STRICT;
        CREATE TABLE cells (
            experiment TEXT NOT NULL REFERENCES experiments (id),
            id TEXT NOT NULL,
            position INTEGER NOT NULL,
            condition TEXT NOT NULL,
            seed INTEGER NOT NULL,
            status TEXT NOT NULL,
            message TEXT NOT NULL,
            result TEXT NOT NULL,
            at TEXT NOT NULL,
            PRIMARY KEY (experiment, id)
        ) STRICT, WITHOUT ROWID;
        """
    )


@migrations()
def m018_judged(db: Database) -> None:
    """Stores the judge's verdicts on solutions known to be right or wrong, the level of an example's reasoning, and the
    reviews by people. Reviews are never changed or deleted; `attempt` is the number of the reviewed attempt.
    """
    db.executescript(
        """
        ALTER TABLE examples ADD COLUMN level INTEGER;
        CREATE TABLE trials (
            run TEXT NOT NULL REFERENCES runs (id),
            number INTEGER NOT NULL,
            known TEXT NOT NULL,
            record TEXT NOT NULL,
            record_hash TEXT NOT NULL,
            at TEXT NOT NULL,
            PRIMARY KEY (run, number)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE reviews (
            id INTEGER PRIMARY KEY,
            run TEXT NOT NULL REFERENCES runs (id),
            turn INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            reviewer TEXT NOT NULL,
            verdict TEXT NOT NULL,
            note TEXT NOT NULL,
            blind INTEGER NOT NULL,
            at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX reviews_turn ON reviews (run, turn, attempt);
        """
    )


@migrations()
def m019_evaluations(db: Database) -> None:
    """Stores why an evaluation ended and its wall-clock time, as for training runs."""
    db.executescript(
        """
        ALTER TABLE evaluations ADD COLUMN message TEXT NOT NULL DEFAULT '';
        ALTER TABLE evaluations ADD COLUMN seconds REAL NOT NULL DEFAULT 0.0;
        """
    )


@migrations()
def m020_short_keys(db: Database) -> None:
    """Replaces the index on the calls' keys with an index on their first ten digits. Keys are hashes, so at a million
    calls almost every new key touches a different index page. The new index is a quarter of the size, and its pages are
    split a quarter as often. Two keys may share their first ten digits, so a lookup compares the whole key
    (`packing.WITH_KEY`), and the writer looks a key up before it inserts it.
    """
    db.executescript(
        """
        CREATE TABLE calls_anew (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL,
            kind TEXT NOT NULL,
            model TEXT NOT NULL,
            run TEXT NOT NULL,
            role TEXT NOT NULL,
            request TEXT NOT NULL,
            reply TEXT NOT NULL,
            reply_hash TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            usd REAL NOT NULL,
            seconds REAL NOT NULL,
            at TEXT NOT NULL
        ) STRICT;
        INSERT INTO calls_anew SELECT id, key, kind, model, run, role, request, reply, reply_hash, prompt_tokens,
            completion_tokens, usd, seconds, at FROM calls;
        DROP TABLE calls;
        ALTER TABLE calls_anew RENAME TO calls;
        CREATE INDEX calls_key ON calls (substr(key, 1, 10));
        CREATE INDEX calls_run ON calls (run, id, role, prompt_tokens, completion_tokens, usd, seconds);
        """
    )


@migrations()
def m021_reasoning(db: Database) -> None:
    """Stores how many of a call's completion tokens are reasoning tokens. Few calls have reasoning tokens, and the
    index holds only those calls.
    """
    db.executescript(
        """
        ALTER TABLE calls ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX calls_reasoning ON calls (run, reasoning_tokens) WHERE reasoning_tokens > 0;
        """
    )


@migrations()
def m022_dataset_files(db: Database) -> None:
    """Lets a dataset have several files, and lets it be replaced: `pinned` names the version that an older run uses."""
    db.executescript(
        """
        CREATE TABLE dataset_files (
            dataset TEXT NOT NULL REFERENCES datasets (name),
            source_hash TEXT NOT NULL,
            at TEXT NOT NULL,
            PRIMARY KEY (dataset, source_hash)
        ) STRICT;
        INSERT INTO dataset_files SELECT name, source_hash, at FROM datasets;
        CREATE TABLE pinned (
            run TEXT NOT NULL REFERENCES runs (id),
            dataset TEXT NOT NULL,
            version TEXT NOT NULL,
            PRIMARY KEY (run, dataset)
        ) STRICT;
        """
    )


@migrations()
def m023_pass_rates(db: Database) -> None:
    """Stores how often the defender answered an example correctly: `passes` of `tries`. Earlier runs asked the defender
    once, and kept a correctly answered example only for its new solution (the reason `kept_novel`).
    """
    db.executescript(
        """
        ALTER TABLE examples ADD COLUMN passes INTEGER;
        ALTER TABLE examples ADD COLUMN tries INTEGER;
        ALTER TABLE examples ADD COLUMN pass_rate REAL GENERATED ALWAYS AS (CAST(passes AS REAL) / tries) VIRTUAL;
        UPDATE examples SET passes = (reason = 'kept_novel'), tries = 1;
        """
    )


@migrations()
def m024_notes(db: Database) -> None:
    """Stores people's notes on runs and training runs. Notes are never changed or deleted; only the newest note on a
    subject is shown.
    """
    db.executescript(
        """
        CREATE TABLE notes (
            id INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            subject TEXT NOT NULL,
            note TEXT NOT NULL,
            at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX notes_subject ON notes (kind, subject);
        """
    )
