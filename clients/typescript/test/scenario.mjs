// What a caller does, against a real server that the environment describes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { inspect } from "node:util";

import { fromBinary, fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import { AppliedUndeliveredError, Client, messages, NotAppliedError, OutcomeUnknownError, Secret, TeamTokenError } from "teamtoken";

const env = process.env;
const team = env.TEAM;
const read = (name) => readFileSync(env[name]);
const secured = () => new Client(env.SECURED, { ca: read("CA"), certificate: read("CERT"), key: read("KEY") });
const control = (path) => fetch(env.CONTROL + path);

/** Whether the upstream knows the secret. */
async function works(secret) {
  const response = await fetch(`${env.UPSTREAM}/api/v2/organizations/${env.ORGANIZATION}`, {
    headers: { Authorization: `Bearer ${secret.reveal()}` },
  });
  assert.ok([200, 401, 404].includes(response.status), response.status);
  return response.ok;
}

async function fails(promise) {
  try {
    await promise;
  } catch (e) {
    assert.ok(e instanceof TeamTokenError, inspect(e));
    return e;
  }
  return assert.fail("it did not fail");
}

async function tokensComeAndGo() {
  const tokens = secured();
  const first = await tokens.generateToken(team, { expiredAt: new Date(Date.now() + 86_400_000) });
  assert.ok(await works(first.secret));
  assert.equal(first.token.teamId, team);
  const second = await tokens.generateToken(team, { expectedTokenId: first.token.id });
  assert.ok((await works(second.secret)) && !(await works(first.secret)));
  assert.equal((await tokens.getToken(team)).id, second.token.id);
  const named = await tokens.createNamedToken(team, "for <CI> ☃");
  assert.ok(await works(named.secret));
  assert.equal((await tokens.getTokenById(named.token.id)).description, "for <CI> ☃");
  await tokens.deleteTokenById(named.token.id);
  assert.ok(!(await works(named.secret)));
  await tokens.deleteToken(team, { expectedTokenId: second.token.id });
  assert.ok(!(await works(second.secret)));
  await tokens.deleteToken(team, { allowMissing: true });
  const gone = await fails(tokens.getToken(team));
  assert.equal(gone.reason, "TEAM_NOT_FOUND_OR_FORBIDDEN");
  assert.equal(gone.outcome, "");
  assert.ok(gone.xRequestId);
  tokens.close();
}

async function lists() {
  const tokens = secured();
  const ids = new Set();
  for (const id of env.TEAMS.split(",")) {
    ids.add((await tokens.generateToken(id)).token.id);
  }
  const listed = [];
  for await (const token of tokens.listTokens(env.ORGANIZATION, { pageSize: 20 })) {
    listed.push(token.id); // over three pages
  }
  assert.equal(listed.length, 45);
  assert.deepEqual(new Set(listed), ids);
  tokens.close();
}

async function replays() {
  const lossy = new Client(env.LOSSY, { insecure: true });
  await lossy.getToken(env.TEAMS.split(",")[1]); // so that there is a connection
  await control("/lose");
  const made = await lossy.generateToken(team); // gRPC sends it again, and is given the first answer
  assert.ok(await works(made.secret));
  assert.equal((await lossy.getToken(team)).id, made.token.id);
  const again = await lossy.generateToken(team, { requestId: made.requestId });
  assert.equal(again.secret.reveal(), made.secret.reveal());
  lossy.close();
  const tokens = new Client(env.CLEAR, { insecure: true });
  await control("/slow");
  const late = await fails(tokens.generateToken(team, { requestId: "late-ts", timeout: 500 }));
  assert.equal(late.code, "DEADLINE_EXCEEDED");
  assert.ok(late instanceof OutcomeUnknownError);
  assert.ok(await works((await tokens.generateToken(team, { requestId: "late-ts" })).secret));
  tokens.close();
}

async function errors() {
  const types = { not_applied: NotAppliedError, applied_undelivered: AppliedUndeliveredError, unknown: OutcomeUnknownError, "": OutcomeUnknownError };
  const failing = new Client(env.REASONS, { insecure: true, channel: { "grpc.enable_retries": 0 } });
  for (const reason of env.REASON_NAMES.split(",")) {
    for (const [outcome, type] of Object.entries(types)) {
      const e = await fails(failing.generateToken(outcome, { requestId: reason }));
      assert.equal(e.reason, reason);
      assert.equal(e.constructor, type);
      assert.equal(e.outcome, outcome || "unknown");
      assert.equal(e.retryAfter, 1500);
      assert.equal(e.violations[0].field, "team_id");
    }
  }
  failing.close();
  const stranger = new Client(env.SECURED, { ca: read("CA"), certificate: read("STRANGER_CERT"), key: read("STRANGER_KEY") });
  const refused = await fails(stranger.generateToken(team));
  assert.ok(refused instanceof NotAppliedError && refused.reason === "CALLER_NOT_ALLOWED");
  stranger.close();
  const tokens = secured();
  const wrong = await fails(tokens.generateToken("team-x"));
  assert.ok(wrong.reason === "INVALID_FIELD" && wrong.violations[0].field === "team_id" && wrong.message.includes("team_id"));
  tokens.close();
  const nowhere = new Client("127.0.0.1:1", { insecure: true });
  const lost = await fails(nowhere.generateToken(team));
  assert.ok(lost instanceof OutcomeUnknownError && lost.reason === "UNSPECIFIED");
  nowhere.close();
  assert.throws(() => new Client("x", { insecure: true, bearer: "x" }), TypeError);
  assert.throws(() => new Client("x", { certificate: Buffer.from("x") }), TypeError);
}

function secretsHide() {
  const secret = new Secret("hunter2");
  for (const text of [`${secret}`, String(secret), inspect(secret), inspect({ secret }), JSON.stringify({ secret }), inspect({ secret }, { showHidden: true, depth: 9 })]) {
    assert.ok(!text.includes("hunter2") && text.includes("[secret]"), text);
  }
  assert.equal(secret.reveal(), "hunter2");
}

function golden() {
  for (const { Type, Binary, JSON: json } of JSON.parse(read("GOLDEN"))) {
    const schema = messages[`${Type}Schema`];
    const binary = Uint8Array.from(Buffer.from(Binary, "base64"));
    const message = fromBinary(schema, binary);
    assert.deepEqual(toJson(schema, message), json);
    assert.deepEqual(toBinary(schema, fromJson(schema, json)), binary);
  }
}

for (const scene of [tokensComeAndGo, lists, replays, errors, secretsHide, golden]) {
  await scene();
  console.log("ok", scene.name);
}
