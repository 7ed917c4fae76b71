/** Kubernetes' label selector in its text form: `a=b, c!=d, e, !f, g in (h, i), j notin (k)`. All of its terms must hold. */

type Labels = ReadonlyMap<string, string>;
type Term = (labels: Labels) => boolean;

/** Undefined when the text is no selector; an empty one selects everything. */
export function parseLabelSelector(text: string): ((labels: Labels) => boolean) | undefined {
  const terms: Term[] = [];
  for (const part of text.split(/,(?![^(]*\))/)) {
    if (part.trim() === "") continue;
    const term = parseTerm(part.trim());
    if (term === undefined) return undefined;
    terms.push(term);
  }
  return (labels) => terms.every((term) => term(labels));
}

const key = "[A-Za-z0-9][A-Za-z0-9._/-]*";
const equality = new RegExp(`^(${key})\\s*(==|=|!=)\\s*([A-Za-z0-9._-]*)$`);
const membership = new RegExp(`^(${key})\\s+(in|notin)\\s*\\(([^()]*)\\)$`);
const existence = new RegExp(`^(!?)\\s*(${key})$`);

function parseTerm(text: string): Term | undefined {
  const equal = equality.exec(text);
  if (equal !== null) {
    const [, name = "", operator, value] = equal;
    return operator === "!=" ? (labels) => labels.get(name) !== value : (labels) => labels.get(name) === value;
  }
  const member = membership.exec(text);
  if (member !== null) {
    const [, name = "", operator, list = ""] = member;
    const values = new Set(list.split(",").map((value) => value.trim()));
    const isIn = (labels: Labels): boolean => labels.has(name) && values.has(labels.get(name) ?? "");
    return operator === "in" ? isIn : (labels) => !isIn(labels);
  }
  const exists = existence.exec(text);
  if (exists === null) return undefined;
  const [, not, name = ""] = exists;
  return not === "!" ? (labels) => !labels.has(name) : (labels) => labels.has(name);
}
