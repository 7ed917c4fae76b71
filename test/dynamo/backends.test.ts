/** The launcher with a real etcd instead of the file store. */
import { expect, it } from "@jest/globals";
import { startEtcd } from "../etcd.ts";
import { sendLoad } from "./load.ts";
import { startDynamo } from "./stack.ts";

it("runs two stacks in one etcd apart by namespace", async () => {
  const etcd = await startEtcd();
  const starts = ["one", "two"].map((namespace) => startDynamo({ namespace, backend: { etcd: etcd.url } }));
  const results = await Promise.allSettled(starts);
  const stacks = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  try {
    expect(stacks).toHaveLength(2);
    expect(new Set(stacks.flatMap(({ workers }) => workers.map(({ instanceId }) => instanceId))).size).toBe(4);
    for (const stack of stacks) {
      const [worker] = stack.workers;
      const { statuses, served } = await sendLoad({
        url: stack.frontend.url,
        stack,
        requests: 10,
        concurrency: 2,
        headers: () => ({ "x-dynamo-worker-instance-id": String(worker?.instanceId) }),
      });
      expect([...statuses]).toEqual([[200, 10]]);
      expect([...served.values()]).toEqual([10, 0]);
    }
  } finally {
    await Promise.all(stacks.map((stack) => stack.close()));
    await etcd.close();
  }
});
