/** A scorer that makes equal totals unequal in the same way everywhere, so that decisions can be compared one by one. */
export const firstInOrder = {
  type: "first-in-order",
  kinds: ["scorer"],
  create: () => ({
    score(_cycle: unknown, endpoints: readonly unknown[], scores: Float64Array) {
      endpoints.forEach((_endpoint, index) => {
        scores[index] = 1 - index / endpoints.length;
      });
    },
  }),
};
