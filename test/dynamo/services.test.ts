/** The services that other tests here compare with start and answer. */
import { expect, it } from "@jest/globals";
import { startDynamoService } from "./services.ts";

it.each([
  ["select_service", "/workers"],
  ["indexer", "/workers"],
  ["slot_tracker", "/loads"],
] as const)("starts the %s with nothing in it, and ends it", async (name, path) => {
  const service = await startDynamoService(name);
  try {
    const answer = await fetch(`${service.url}${path}`);
    expect([answer.status, await answer.json()]).toEqual([200, []]);
  } finally {
    await service.close();
  }
  await expect(fetch(service.url)).rejects.toThrow("fetch failed");
});
