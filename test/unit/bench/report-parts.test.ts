import { describe, expect, it } from "@jest/globals";
import { dynamoHeading, splitPage } from "../../../bench/report-dynamo.ts";
import { kubernetesHeading } from "../../../bench/report-kubernetes.ts";

const parts = {
  picker: "# Performance\n\npicker\n",
  dynamo: `${dynamoHeading}\n\ndynamo\n`,
  kubernetes: `${kubernetesHeading}\n\nkubernetes\n`,
};

describe("the page of figures", () => {
  it.each<{ names: readonly (keyof typeof parts)[] }>([
    { names: ["picker", "dynamo", "kubernetes"] },
    { names: ["picker", "kubernetes"] },
    { names: ["dynamo", "kubernetes"] },
    { names: ["picker", "dynamo"] },
    { names: ["kubernetes"] },
    { names: [] },
  ])("is parted into what was joined: $names", ({ names }) => {
    const page = names.map((name) => parts[name]).join("\n");
    const whole = { picker: "", dynamo: "", kubernetes: "" };
    expect(splitPage(page)).toEqual({ ...whole, ...Object.fromEntries(names.map((name) => [name, parts[name]])) });
  });
});
