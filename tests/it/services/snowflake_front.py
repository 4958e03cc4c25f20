"""A stand-in for Snowflake: the drivers' endpoints in front of fakesnow, which runs Snowflake's SQL on DuckDB.

It checks logins, renews sessions, answers a repeated request with what the first came to, gives out places for files,
does what fakesnow cannot (named transactions, keys that nobody enforces, FLATTEN within MERGE), disturbs and is down on
demand. Arguments: port. Users: POST /test/user. Faults: POST /test/faults. Down: POST /test/down. SQL past all that:
POST /test/sql.
"""

import base64
import collections
import faulthandler
import gzip
import hashlib
import itertools
import json
import os
import re
import secrets
import sys
import threading
import time
import uuid

import uvicorn
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from fakesnow.instance import FakeSnow
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

faulthandler.register(10)
PORT = int(sys.argv[1])
HERE = f"http://127.0.0.1:{PORT}"
ACCOUNT = "ORG-SHOP"
fake = FakeSnow()
lock = threading.RLock()
numbers, kinds = itertools.count(1), itertools.cycle(range(4))
users, sessions, faults, keys, answers, results, chunks, places = {}, {}, {}, {}, {}, {}, {}, {}
statements = collections.defaultdict(lambda: collections.deque(maxlen=5000))
KEY_COLUMNS = ["database_name", "schema_name", "table_name", "column_name", "key_sequence"]
is_down = threading.Event()


class Refusal(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class Session:
    def __init__(self, database, schema, user):
        self.id, self.user, self.database, self.schema = next(numbers), user, database, schema
        self.connection = fake.connect(database, schema)
        self.token, self.master = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.expired = False
        self.transaction = None
        self.aborted = False

    def duck(self, sql, parameters=None):
        return self.connection.cursor()._duck_conn.execute(sql, parameters or [])

    def execute(self, sql, parameters=()):
        cursor = self.connection.cursor()
        cursor.execute(sql, binding_params=tuple(parameters) or None, server=True)
        names = [column.name for column in cursor.description or []]
        return names, [list(row) for row in cursor.fetchall()]

    def end(self, word):
        self.transaction = None
        self.execute(word)


def refused(code, message, status=200):
    return JSONResponse({"success": False, "code": code, "message": message, "data": None}, status_code=status)


def granted(data):
    return JSONResponse({"success": True, "code": None, "message": None, "data": data})


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def check_key(user, token):
    """The token is signed by the user's key, names its fingerprint, and is of now."""
    head, claims, signature = token.split(".")
    key = serialization.load_pem_public_key(users[user]["public_key"].encode())
    key.verify(unpadded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()
    told, now = json.loads(unpadded(claims)), time.time()
    assert json.loads(unpadded(head)) == {"typ": "JWT", "alg": "RS256"}
    assert told["iss"] == f"{ACCOUNT}.{user}.{fingerprint}" and told["sub"] == f"{ACCOUNT}.{user}"
    assert told["iat"] <= now < told["exp"] <= told["iat"] + 3600


async def login(request: Request):
    query, data = request.query_params, (await request.json())["data"]
    user = data["LOGIN_NAME"].upper()
    known = users.get(user, {})
    if data["ACCOUNT_NAME"].upper() != ACCOUNT or request.headers["accept"] != "application/snowflake":
        return refused("390100", "Incorrect username or password was specified.")
    if data.get("AUTHENTICATOR") == "SNOWFLAKE_JWT":
        try:
            check_key(user, data["TOKEN"])
        except Exception:
            return refused("390144", "JWT token is invalid.")
    elif data.get("AUTHENTICATOR") == "PROGRAMMATIC_ACCESS_TOKEN":
        if data["TOKEN"] != known.get("token"):
            return refused("394400", "Programmatic access token is invalid.")
    elif "password" not in known or data.get("PASSWORD") != known["password"]:
        return refused("390100", "Incorrect username or password was specified.")
    assert data["SESSION_PARAMETERS"]["QUOTED_IDENTIFIERS_IGNORE_CASE"] is False
    database, schema = query["databaseName"].upper(), query["schemaName"].upper()
    is_there = not database.startswith("NO_SUCH")
    with lock:
        session = Session(database if is_there else "SPARE", schema, user)
        sessions[session.token] = session
    info = {
        "databaseName": database if is_there else None,
        "schemaName": schema if is_there and not schema.startswith("NO_SUCH") else None,
        "warehouseName": None if query.get("warehouse") == "none" else query.get("warehouse", "COMPUTE_WH"),
        "roleName": query.get("roleName", "PUBLIC"),
    }
    seconds = faults.get(database, {}).get("master_seconds", 14400)
    return granted({"token": session.token, "masterToken": session.master, "masterValidityInSeconds": seconds, "sessionId": session.id, "sessionInfo": info})


def token_of(request):
    return request.headers.get("authorization", "")[len('Snowflake Token="') : -1]


async def renew(request: Request):
    body = await request.json()
    session = sessions.get(body["oldSessionToken"])
    if session is None or token_of(request) != session.master or body["requestType"] != "RENEW":
        return refused("390114", "Authentication token has expired. The user must authenticate again.")
    with lock:
        sessions.pop(session.token)
        session.token, session.master, session.expired = secrets.token_urlsafe(16), secrets.token_urlsafe(16), False
        sessions[session.token] = session
    return granted({"sessionToken": session.token, "masterToken": session.master, "validityInSecondsST": 3600, "validityInSecondsMT": 14400})


async def goodbye(request: Request):
    with lock:
        session = sessions.pop(token_of(request), None)
        if session and session.transaction:
            session.end("ROLLBACK")
    return granted(None)


def due(plan, fault):
    """Whether it is this fault's turn, by chance with the share that was asked for."""
    return secrets.randbelow(10_000) < plan.get(fault, 0) * 10_000


async def query(request: Request):
    session = sessions.get(token_of(request))
    if session is None:
        return refused("390104", "User must login again to access the service.")
    plan, number = faults.get(session.database, {}), request.query_params["requestId"]
    assert request.query_params["request_guid"] != number
    if session.expired or due(plan, "expire"):
        session.expired = True
        return refused("390112", "Your session has expired. Please login again.")
    if due(plan, "throttle"):
        return Response("slow down", status_code=secrets.choice([429, 503]), headers={"Retry-After": "0"})
    if due(plan, "forget") or (session.transaction and plan.pop("forget_open", False)):
        # The session is gone, and nobody ends its transaction.
        sessions.pop(session.token, None)
        return refused("390111", "Session no longer exists. New login required to access the service.")
    body = await request.json()
    answer = await run_in_threadpool(answered, session, number, body)
    if due(plan, "lose"):
        return secrets.choice([Response("gone", status_code=502), StreamingResponse(broken(), media_type="application/json", headers={"Content-Length": "1000"})])
    if due(plan, "slow"):
        results[number] = [answer, 2]
        return JSONResponse({"success": True, "code": "333333", "message": "in progress", "data": {"getResultUrl": f"/queries/{number}/result"}})
    return JSONResponse(answer)


async def broken():
    yield b'{"succ'
    raise ConnectionError("the answer is lost")


async def result(request: Request):
    kept = results[request.path_params["id"]]
    kept[1] -= 1
    if kept[1] > 0:
        return JSONResponse({"success": True, "code": "333334", "data": {"getResultUrl": request.url.path}})
    return JSONResponse(kept[0])


def answered(session, number, body):
    """What the statement comes to; a request that is known comes to what it came to."""
    with lock:
        if is_down.is_set():
            return {"success": False, "code": "390111", "message": "Session no longer exists. New login required to access the service.", "data": None}
        if number not in answers:
            answers[number] = outcome(session, body)
        return answers[number]


def outcome(session, body):
    sql, bindings = body["sqlText"], body.get("bindings") or {}
    parameters = [bindings[str(n)]["value"] if bindings[str(n)]["type"] == "TEXT" else int(bindings[str(n)]["value"]) for n in range(1, len(bindings) + 1)]
    statements[session.database].append({"sql": sql, "tag": body["parameters"]["QUERY_TAG"]})
    try:
        if session.aborted and sql != "COMMIT":
            session.aborted = False
            raise Refusal("000625", "The transaction was aborted.")
        data = special(session, sql) or plain(session, sql, parameters)
        return {"success": True, "code": None, "message": None, "data": data}
    except Refusal as e:
        return {"success": False, "code": e.code, "message": e.message, "data": {}}
    except Exception as e:
        code, text = errno(e)
        return {"success": False, "code": code, "message": text, "data": {}}


def errno(e):
    name, text = type(e).__name__, str(e)
    if "Conflict on" in text or "write-write conflict" in text or "Conflict" in name:
        return "000625", "Statement has locked a table in another transaction, and this lock has not yet been released."
    if "NOT NULL constraint" in text:
        return "100072", "NULL result in a non-nullable column"
    if "Column with name" in text and "already exists" in text:
        return "001430", text
    if name in ("ConversionException", "InvalidInputException", "OutOfRangeException") or "Conversion Error" in text:
        return "100038", text
    return f"{getattr(e, 'errno', None) or 603:06d}", text


def special(session, sql):
    """What fakesnow has no idea of."""
    if found := re.fullmatch(r"BEGIN TRANSACTION(?: NAME (\w+))?", sql):
        session.transaction = (next(numbers), found[1] or "unnamed")
        session.execute("BEGIN")
        return shaped(["status"], [["Statement executed successfully."]])
    if sql in ("COMMIT", "ROLLBACK"):
        # Where somebody else ends a transaction first, COMMIT has nothing to do, and says no word of it.
        stolen = session.aborted or due(faults.get(session.database, {}), "steal")
        session.aborted = False
        session.end("ROLLBACK" if stolen else sql)
        return shaped(["status"], [["Statement executed successfully."]])
    if sql == "SHOW TRANSACTIONS":
        return shaped(["id", "user", "session", "name", "state"], [[s.transaction[0], s.user, s.id, s.transaction[1], "running"] for s in known_sessions() if s.transaction])
    if found := re.fullmatch(r"SELECT SYSTEM\$ABORT_TRANSACTION\((\d+)\)", sql):
        for other in known_sessions():
            if other.transaction and other.transaction[0] == int(found[1]):
                other.end("ROLLBACK")
                other.aborted = True
        return shaped(["SYSTEM$ABORT_TRANSACTION"], [["Transaction aborted"]])
    if found := re.fullmatch(r"PUT 'file:///[^']*/([\w.-]+)' @\"(\w+)\" AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = GZIP OVERWRITE = TRUE", sql):
        return place(session, found[1], found[2])
    if found := re.fullmatch(r'SHOW PRIMARY KEYS IN SCHEMA "(.*)"', sql):
        rows = [[d, s, t, c, n + 1] for (d, s, t), columns in keys.items() if d == session.database and s == found[1].replace('""', '"') for n, c in enumerate(columns)]
        return shaped(KEY_COLUMNS, rows)
    if found := re.fullmatch(r'SHOW PRIMARY KEYS IN TABLE "((?:[^"]|"")*)"\."((?:[^"]|"")*)"', sql):
        table = (session.database, *(name.replace('""', '"') for name in found.groups()))
        return shaped(KEY_COLUMNS, [[*table, c, n + 1] for n, c in enumerate(keys.get(table, []))])
    return None


every_session = []


def known_sessions():
    return [s for s in every_session if s.transaction]


def plain(session, sql, parameters):
    if sql.startswith(("CREATE", "DROP", "ALTER")):
        if session.transaction:
            # A definition ends the transaction that is open.
            session.end("COMMIT")
        sql = without_key(session, sql)
        if "'" in sql and " TABLE " in sql:
            # fakesnow writes names down in a way that such a one breaks.
            for theirs, ours in (("STRING", "VARCHAR"), ("TIMESTAMP_NTZ", "TIMESTAMP"), ("INTEGER", "BIGINT"), ("FLOAT", "DOUBLE"), ("VARIANT", "JSON")):
                sql = re.sub(rf'(?<=") {theirs}\b', f" {ours}", sql)
            session.duck(sql)
            return shaped(["status"], [["created"]])
    sql = sql.replace(", 'd')", ")")
    # fakesnow goes by way of a double here.
    sql = re.sub(r"TO_TIMESTAMP_NTZ\((\S+?)::NUMBER\(38, 0\), 6\)", r"MAKE_TIMESTAMP(\1::BIGINT)", sql)
    if "FLATTEN" in sql:
        rows = json.loads(parameters[0])
        session.duck("CREATE OR REPLACE TEMP TABLE _flat (VALUE JSON)")
        if rows:
            cursor = session.connection.cursor()._duck_conn
            cursor.executemany("INSERT INTO _flat VALUES (?)", [[json.dumps(row, ensure_ascii=False)] for row in rows])
        sql, parameters = sql.replace("TABLE(FLATTEN(INPUT => PARSE_JSON(?)))", '"_flat"'), []
    if sql.startswith("MERGE"):
        return shaped(["number of rows merged"], [[merged(session, sql, parameters)]])
    names, rows = session.execute(sql, parameters)
    return shaped(names, rows)


def merged(session, sql, parameters):
    """DuckDB merges by itself; only the source is in Snowflake's words."""
    head, rest = sql.split(" USING ", 1)
    source, rest = rest.split(" AS s ON ", 1)
    duck = session.connection.cursor()._duck_conn
    if source.startswith("("):
        cursor = session.connection.cursor()
        cursor.execute(source[1:-1], binding_params=tuple(parameters) or None, server=True)
        duck.register("_source", cursor._arrow_table)
        source = "_source"
    return duck.execute(f"{head} USING {source} AS s ON {rest}").fetchone()[0]


def without_key(session, sql):
    """Keys are declared and not enforced."""
    if found := re.match(r'CREATE TABLE IF NOT EXISTS "(.*?)"\."((?:[^"]|"")*)" \((.*), PRIMARY KEY \((.*)\)\)$', sql, re.S):
        schema, table, columns, key = found.groups()
        names = [quoted.replace('""', '"') or plain.upper() for quoted, plain in re.findall(r'"((?:[^"]|"")*)"|(\w+)', key)]
        keys.setdefault((session.database, schema, table.replace('""', '"')), names)
        return f'CREATE TABLE IF NOT EXISTS "{schema}"."{table}" ({columns})'
    if found := re.match(r'DROP TABLE IF EXISTS "(.*?)"\."(.*)"$', sql):
        keys.pop((session.database, found[1], found[2].replace('""', '"')), None)
    return sql


def shaped(names, rows):
    text = [[None if cell is None else str(cell) for cell in row] for row in rows]
    data = {"rowtype": [{"name": name} for name in names], "rowset": text, "total": len(text)}
    if len(text) > 40:
        number = str(uuid.uuid4())
        chunks[number] = gzip.compress(json.dumps(text[20:])[1:-1].encode())
        data |= {"rowset": text[:20], "chunks": [{"url": f"{HERE}/chunks/{number}"}], "chunkHeaders": {"x-piece": number}}
    return data


async def chunk(request: Request):
    number = request.path_params["id"]
    return Response(chunks[number]) if request.headers.get("x-piece") == number else Response(status_code=403)


def place(session, file, stage):
    """Where a file goes: in turn to each kind of storage that the service may order."""
    names, _ = session.execute(f"PUT 'file:///tmp/{file}' @\"{stage}\" AUTO_COMPRESS = FALSE")
    assert names
    cursor = session.connection.cursor()
    cursor.execute(f"PUT 'file:///tmp/{file}' @\"{stage}\" AUTO_COMPRESS = FALSE", server=True)
    folder = cursor._last_transformed.args["put_stage_data"]["stageInfo"]["location"]
    number, secret = f"p{next(numbers)}", secrets.token_urlsafe(12)
    places[number] = (folder, secret)
    kind = next(kinds)
    info = {"location": f"bucket/{number}/", "region": "eu-central-1", "endPoint": HERE, "isClientSideEncrypted": False, "presignedUrl": None}
    if kind == 0:
        info |= {"locationType": "S3", "creds": {"AWS_KEY_ID": "key", "AWS_SECRET_KEY": "secret", "AWS_TOKEN": secret}}
    elif kind == 1:
        info |= {"locationType": "AZURE", "storageAccount": "account", "creds": {"AZURE_SAS_TOKEN": f"?sig={secret}&sv=2024"}}
    elif kind == 2:
        info |= {"locationType": "GCS", "creds": {"GCS_ACCESS_TOKEN": secret}}
    else:
        info |= {"locationType": "GCS", "creds": {}, "presignedUrl": f"{HERE}/bucket/{number}/{file}?signature={secret}"}
    return {"stageInfo": info, "src_locations": [file], "command": "UPLOAD"}


async def upload(request: Request):
    _, number, name = request.path_params["path"].split("/", 2)
    folder, secret = places.get(number, ("", ""))
    given, query = request.headers, request.query_params
    s3 = given.get("x-amz-security-token") == secret and "Credential=key/" in given.get("authorization", "")
    azure = query.get("sig") == secret and given.get("x-ms-blob-type") == "BlockBlob"
    google = given.get("authorization") == f"Bearer {secret}" or query.get("signature") == secret
    if not secret or not (s3 or azure or google):
        return Response("not allowed", status_code=403)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, os.path.basename(name)), "wb") as file:
        file.write(await request.body())
    return Response(status_code=201 if azure else 200, headers={"ETag": '"x"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"})


async def test_user(request: Request):
    body = await request.json()
    users[body["name"].upper()] = body
    return JSONResponse({})


async def test_faults(request: Request):
    body = await request.json()
    faults[body.pop("database").upper()] = body
    return JSONResponse({})


async def test_down(request: Request):
    """Nobody is answered any more, and every session is gone with its transaction; or all is well again."""
    down = (await request.json())["down"]

    def end_all():
        is_down.set()
        with lock:
            for session in known_sessions():
                session.end("ROLLBACK")
            sessions.clear()
            answers.clear()

    if down:
        await run_in_threadpool(end_all)
    else:
        is_down.clear()
    return JSONResponse({})


def while_up(handler):
    async def answer(request: Request):
        return Response("down", status_code=503) if is_down.is_set() else await handler(request)

    return answer


async def test_statements(request: Request):
    database = request.query_params["database"].upper()
    return JSONResponse(list(statements[database]))


async def test_sql(request: Request):
    body = await request.json()

    def run():
        with lock:
            session = Session(body["database"].upper(), "PUBLIC", "TEST")
            sql = without_key(session, body["sql"])
            text = lambda cell: cell if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)
            return [[text(cell) for cell in row] for row in session.execute(sql)[1]]

    try:
        return JSONResponse(await run_in_threadpool(run))
    except Exception as e:
        return JSONResponse({"error": str(e)})


class Remembered(dict):
    """Sessions by token; those that are gone are remembered for their transactions."""

    def __setitem__(self, token, session):
        super().__setitem__(token, session)
        if session not in every_session:
            every_session.append(session)


sessions = Remembered()
routes = [
    Route("/session/v1/login-request", while_up(login), methods=["POST"]),
    Route("/session/token-request", while_up(renew), methods=["POST"]),
    Route("/session", while_up(goodbye), methods=["POST"]),
    Route("/queries/v1/query-request", while_up(query), methods=["POST"]),
    Route("/queries/{id}/result", while_up(result), methods=["GET"]),
    Route("/chunks/{id}", chunk, methods=["GET"]),
    Route("/test/user", test_user, methods=["POST"]),
    Route("/test/faults", test_faults, methods=["POST"]),
    Route("/test/down", test_down, methods=["POST"]),
    Route("/test/statements", test_statements, methods=["GET"]),
    Route("/test/sql", test_sql, methods=["POST"]),
    Route("/{path:path}", upload, methods=["PUT"]),
]

if __name__ == "__main__":
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=PORT, log_level="warning")
