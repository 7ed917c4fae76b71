/** Members that come, stay and leave in any order, beside a Set. */
import { describe, expect, it } from "@jest/globals";
import { MemberList, type Place } from "../../../src/pipeline/member-list.ts";
import fc from "../../properties.ts";

describe("a list of members", () => {
  it("has those who came and have not left, in the order in which they came", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat())), (steps) => {
        const list = new MemberList<number>();
        const model = new Set<number>();
        const places: Place<number>[] = [];
        for (const [enters, which] of steps) {
          if (enters || places.length === 0) {
            const member = places.length;
            places.push(list.enter(member));
            model.add(member);
          } else {
            // Some leave twice.
            const place = places[which % places.length];
            place?.leave();
            model.delete(place?.member ?? Number.NaN);
          }
          expect(list.members()).toEqual([...model]);
          expect(list.size).toBe(model.size);
          expect(list.oldest?.member).toBe([...model][0]);
        }
      }),
    );
  });

  it("lets members leave and come while it is gone through", () => {
    const list = new MemberList<string>();
    const places = new Map(["a", "b", "c"].map((name) => [name, list.enter(name)]));
    const seen: string[] = [];
    for (const member of list.members()) {
      seen.push(member);
      for (const place of places.values()) place.leave();
      list.enter("d");
    }
    expect(seen).toEqual(["a", "b", "c"]);
    expect(list.members()).toEqual(["d", "d", "d"]);
  });
});
