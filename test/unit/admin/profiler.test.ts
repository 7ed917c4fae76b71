import { afterEach, describe, expect, it } from "@jest/globals";
import type { AdminAnswer } from "../../../src/admin/http-server.ts";
import { createProfiler, type Profiler } from "../../../src/admin/profiler.ts";

const open: Profiler[] = [];
afterEach(async () => {
  for (const profiler of open.splice(0)) await profiler.close();
});

function start(): (path: string, query?: string) => Promise<AdminAnswer> {
  const profiler = createProfiler();
  open.push(profiler);
  return async (path, query = "") => {
    const route = profiler.routes.get(`/debug/pprof/${path}`);
    if (route === undefined) throw new Error(`no route ${path}`);
    return await route("", new URLSearchParams(query));
  };
}

describe("the profiler", () => {
  it.each([
    ["profile", "samples"],
    ["heap", "head"],
  ])("answers %s with a V8 profile", async (path, member) => {
    const answer = await start()(path, "seconds=0.05");
    expect(answer.status).toBe(200);
    expect(JSON.parse(String(answer.body))).toHaveProperty(member);
  });

  it.each(["seconds=0", "seconds=-1", "seconds=61", "seconds=x", "seconds=1e1", "seconds=", "seconds=Infinity"])(
    "refuses %s",
    async (query) => {
      const get = start();
      expect((await get("profile", query)).status).toBe(400);
      expect((await get("heap", query)).status).toBe(400);
    },
  );

  it("takes one profile at a time, and another when that is done", async () => {
    const get = start();
    const first = get("profile", "seconds=0.1");
    expect((await get("heap", "seconds=0.1")).status).toBe(503);
    expect((await get("profile", "seconds=0.1")).status).toBe(503);
    expect((await first).status).toBe(200);
    expect((await get("heap", "seconds=0.02")).status).toBe(200);
  });

  it("ends a profile under way when it is closed", async () => {
    const get = start();
    const taken = get("profile", "seconds=60");
    const [profiler] = open;
    await profiler?.close();
    expect((await taken).status).toBe(200);
  });

  it("shows the command line with NULs between arguments, as the reference does", async () => {
    const answer = await start()("cmdline");
    expect(String(answer.body).split("\u0000")).toEqual(process.argv);
  });
});
