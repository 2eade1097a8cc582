// Names and colours of boxes: methods of the page.

const Looks = {
  hue(rule) {
    if (RULE_HUES[rule]) return RULE_HUES[rule];
    if (!this.spare.has(rule)) this.spare.set(rule, SPARE_HUES[this.spare.size % SPARE_HUES.length]);
    return this.spare.get(rule);
  },

  ruleOf(item) {
    const { forward, relevance, rules } = this.data;
    if (item.kind === "step") return rules[relevance.rule[item.step]]?.rule ?? "";
    if (item.node < 0) return "";
    const own = rules[forward.rule[item.node]]?.rule;
    const [first] = this.tree.explained[item.node];
    return own ?? (first === undefined ? "" : rules[relevance.rule[first]]?.rule ?? "");
  },

  classOf(item) { return this.data.modules[item.path.replace(/@\d+/g, "")] ?? "" },

  title(item) {
    if (item.kind !== "part") return item.kind === "module" ? item.path : item.label;
    return `${item.parent.label} · ${item.label}`;
  },

  value(item) {
    const sums = (item.kind === "step" ? this.tree.leaves[item.node] : item).books;
    if (!sums) return null;
    if (this.mode === "absorbed") return Object.values(sums.absorbed).reduce((a, b) => a + b, 0);
    return this.mode === "error" ? sums.error : sums.in;
  },

  name(item, side) {
    const { forward, relevance } = this.data;
    const value = this.mode === "rule" ? undefined : this.value(item);
    const shown = value === undefined ? null : value || this.mode === "relevance" ? number(value, 3) : "";
    if (item.kind === "step") {
      const form = relevance.form[item.step];
      const role = relevance.role[item.step];
      return { title: relevance.op[item.step], hint: role || (form.startsWith("unit") ? "g" : form ? "R" : ""), subtitle: relevance.type[item.step] };
    }
    if (item.kind === "node") {
      const role = forward.role[item.node];
      if (side === 0) return { title: item.label, hint: shown ?? (role || this.ruleOf(item)), subtitle: forward.type[item.node] };
      const steps = item.inside.relevance;
      return { title: this.ruleOf(item), hint: shown ?? (steps ? `${steps} op${steps === 1 ? "" : "s"}` : "untouched"), subtitle: item.label };
    }
    const count = side ? item.inside.relevance : item.inside.forward;
    const [first, last] = [item.children[0], item.children.at(-1)];
    const subtitle = item.kind === "part" ? `${first.label} … ${last.label}` : this.classOf(item) || `${item.children.length} inside`;
    return { title: item.label, hint: shown ?? String(count), subtitle };
  },

  paint(item, side) {
    if (this.mode !== "rule") {
      const value = item.kind === "step" ? null : this.value(item);
      if (!value || (side === 1 && !this.picture.exists(item, 1))) return {};
      return { fill: this.picture.colour(value > 0 ? "positive" : "negative"), alpha: 0.06 + 0.5 * Math.min(1, Math.sqrt(Math.abs(value) / this.reference)) };
    }
    if (item.kind === "step" || item.kind === "node") {
      const rule = this.ruleOf(item);
      if (!rule) return {};
      const hue = this.hue(rule);
      return { stripe: hue, fill: hue, alpha: item.kind === "step" ? 0.07 : 0.12 };
    }
    const total = [...item.inside.rules.values()].reduce((a, b) => a + b, 0);
    return { mix: [...item.inside.rules].sort((a, b) => b[1] - a[1]).map(([rule, count]) => [this.hue(rule), count / total]) };
  },
};
