import { type AddressInfo, createServer, type Server } from "node:net";
import { afterEach, describe, expect, it } from "@jest/globals";
import { Suspects } from "../../../../src/prefill-router/fleet/suspects.ts";

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function listening(): Promise<{ readonly server: Server; readonly address: string }> {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closers.push(() => new Promise((resolve) => server.close(resolve)));
  const address = server.address();
  return { server, address: `127.0.0.1:${typeof address === "object" ? address?.port : ""}` };
}

async function refusing(): Promise<string> {
  const { server, address } = await listening();
  await new Promise((resolve) => server.close(resolve));
  return address;
}

function watch(address: string | undefined, isDispensable = true, isServed?: () => Promise<boolean>) {
  const steps: string[] = [];
  let wake: (() => void) | undefined;
  const note = (step: string): void => {
    steps.push(step);
    wake?.();
  };
  const suspects = new Suspects({
    addressOf: () => address,
    ...(isServed === undefined ? {} : { isServed }),
    isDispensable: () => isDispensable,
    exclude: (id) => note(`out ${id}`),
    readmit: (id) => note(`in ${id}`),
    againMs: 5,
  });
  closers.push(() => suspects.close());
  const until = async (count: number): Promise<readonly string[]> => {
    const endMs = performance.now() + 20_000;
    while (steps.length < count && performance.now() < endMs) {
      await new Promise<void>((resolve) => {
        wake = resolve;
        setTimeout(resolve, 20);
      });
    }
    return steps;
  };
  return { suspects, steps, until };
}

describe("Suspects", () => {
  it("takes a worker out that no longer listens", async () => {
    const { suspects, until } = watch(await refusing());
    suspects.suspect(7n, false);
    expect(await until(1)).toEqual(["out 7"]);
    expect(suspects.excluded).toEqual([7n]);
  });

  it("asks for a worker without an address whether anybody serves it", async () => {
    const answers = [false, false, true];
    const { suspects, until } = watch(undefined, true, () => Promise.resolve(answers.shift() ?? true));
    suspects.suspect(7n, false);
    expect(await until(2)).toEqual(["out 7", "in 7"]);
    expect([answers.length, suspects.excluded]).toEqual([0, []]);
  });

  it("takes a certain suspect out at once and back in when it listens", async () => {
    const { suspects, steps, until } = watch((await listening()).address);
    suspects.suspect(7n, true);
    expect(steps).toEqual(["out 7"]);
    expect(await until(2)).toEqual(["out 7", "in 7"]);
    expect(suspects.excluded).toEqual([]);
  });

  it("leaves a worker in the choice that listens, whatever its answer was", async () => {
    const { address, server } = await listening();
    const { suspects, steps } = watch(address);
    const asked = new Promise((resolve) => server.once("connection", resolve));
    suspects.suspect(7n, false);
    await asked;
    expect(steps).toEqual([]);
  });

  it("takes a worker out whose connection is reset, as that of a process that is being killed", async () => {
    const server = createServer((socket) => socket.resetAndDestroy());
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    closers.push(() => new Promise((resolve) => server.close(resolve)));
    const { port } = server.address() as AddressInfo;
    const { suspects, until } = watch(`127.0.0.1:${port}`);
    suspects.suspect(7n, false);
    expect(await until(1)).toEqual(["out 7"]);
  });

  it("readmits a worker that keeps the connection", async () => {
    const server = createServer((socket) => closers.push(() => socket.destroy()));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    closers.push(() => server.close());
    const { port } = server.address() as AddressInfo;
    const { suspects, until } = watch(`127.0.0.1:${port}`);
    suspects.suspect(7n, true);
    expect(await until(2)).toEqual(["out 7", "in 7"]);
  });

  it("keeps asking one that does not listen until it does", async () => {
    const { server, address } = await listening();
    await new Promise((resolve) => server.close(resolve));
    const { suspects, until } = watch(address);
    suspects.suspect(7n, false);
    await until(1);
    const again = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => again.listen(Number(address.split(":")[1]), "127.0.0.1", resolve));
    closers.push(() => new Promise((resolve) => again.close(resolve)));
    expect(await until(2)).toEqual(["out 7", "in 7"]);
  });

  it("leaves a certain suspect that nobody stands in for in the choice until it is seen not to listen", async () => {
    const { suspects, steps, until } = watch(await refusing(), false);
    suspects.suspect(7n, true);
    expect(steps).toEqual([]);
    expect(suspects.isExcluded(7n)).toBe(false);
    expect(await until(1)).toEqual(["out 7"]);
    expect(suspects.isExcluded(7n)).toBe(true);
  });

  it("asks a worker again soon that listened and is refused again", async () => {
    const { suspects, until } = watch((await listening()).address);
    suspects.suspect(7n, true);
    await until(2);
    const beganMs = performance.now();
    suspects.suspect(7n, true);
    expect(await until(4)).toEqual(["out 7", "in 7", "out 7", "in 7"]);
    expect(performance.now() - beganMs).toBeLessThan(150);
  });

  it("asks once at a time, however many answers fail", async () => {
    const { address, server } = await listening();
    let connections = 0;
    server.on("connection", () => connections++);
    const { suspects, until } = watch(address);
    for (let i = 0; i < 1_000; i++) suspects.suspect(7n, true);
    await until(2);
    expect(connections).toBe(1);
  });

  it("forgets a worker that has left", async () => {
    const { suspects, until } = watch(await refusing());
    suspects.suspect(7n, false);
    await until(1);
    suspects.forget(7n);
    expect(suspects.excluded).toEqual([]);
  });
});
