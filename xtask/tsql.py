"""Parses T-SQL, one statement a line, with Microsoft's own parser (ScriptDom): no server, no network.
Usage: tsql.py DIRECTORY_OF_THE_PARSER FILE.sql; exits with 1 if a statement has a syntax error."""
import json
import os
import sys
import tempfile

os.environ["DOTNET_SYSTEM_GLOBALIZATION_INVARIANT"] = "1"
import dotnetcore2

root = os.path.join(os.path.dirname(dotnetcore2.__file__), "bin")
with tempfile.NamedTemporaryFile("w", suffix=".runtimeconfig.json", delete=False) as config:
    framework = {"name": "Microsoft.NETCore.App", "version": "3.1.0"}
    options = {"tfm": "netcoreapp3.1", "framework": framework, "configProperties": {"System.Globalization.Invariant": True}}
    json.dump({"runtimeOptions": options}, config)

from pythonnet import load

load("coreclr", runtime_config=config.name, dotnet_root=root)
import clr

sys.path.append(sys.argv[1])
clr.AddReference("Microsoft.SqlServer.TransactSql.ScriptDom")
from Microsoft.SqlServer.TransactSql.ScriptDom import TSql130Parser
from System.IO import StringReader

# 130: SQL Server 2016, the oldest that EDS writes to.
parser, wrong = TSql130Parser(True), 0
with open(sys.argv[2], encoding="utf-8") as file:
    statements = file.read().splitlines()
for number, sql in enumerate(statements, 1):
    _, errors = parser.Parse(StringReader(sql), None)
    for error in errors:
        print(f"{sys.argv[2]}:{number}:{error.Column}: {error.Number} {error.Message}")
        wrong += 1
print(f"{len(statements)} statements, {wrong} syntax errors")
sys.exit(1 if wrong or not statements else 0)
