// The scores of a bag: what they add up to, what is missing, and the form to give them in.

class Sheet {
  constructor(data, root, onChange) {
    this.protocol = data.protocol;
    this.keys = data.protocol.criteria.map((criterion) => criterion.key);
    this.root = root;
    this.onChange = onChange;
    this.levels = [];
    for (let level = this.protocol.lowest; level <= this.protocol.highest; level++) this.levels.push(level);
  }

  // Letter → total, of the letters that have every score.
  totals(bag, entry) {
    const whole = bag.letters.filter((letter) => this.keys.every((key) => entry.scores[letter]?.[key] !== undefined));
    return new Map(whole.map((letter) => [letter, this.keys.reduce((sum, key) => sum + entry.scores[letter][key], 0)]));
  }

  // Letters in groups of one rank, the best first. `open` are equal totals that wait for the reader's decision.
  standing(bag, entry) {
    const totals = this.totals(bag, entry);
    const groups = [], open = [], tied = [];
    for (const total of [...new Set(totals.values())].sort((a, b) => b - a)) {
      const members = bag.letters.filter((letter) => totals.get(letter) === total);
      if (members.length === 1) {
        groups.push(members);
        continue;
      }
      const decided = entry.ties[members.join("")];
      tied.push(members);
      if (!decided) open.push(members);
      groups.push(...(decided || [members]));
    }
    return { totals, groups, tied, open };
  }

  state(bag, entry) {
    const { totals, open } = this.standing(bag, entry);
    const given = Object.values(entry.scores).reduce((sum, scores) => sum + Object.keys(scores).length, 0);
    const complete = totals.size === bag.letters.length && !open.length;
    return { kind: complete ? "complete" : given ? "begun" : "empty", given, of: bag.letters.length * this.keys.length, open };
  }

  show(bag, entry) {
    this.bag = bag;
    this.entry = entry;
    this.pending = {};
    this.root.replaceChildren(...this.protocol.criteria.map((criterion, i) => this.criterionRow(criterion, i)));
    this.ranking = element("div", { className: "criterion" });
    const comment = element("textarea", { rows: 1, maxLength: 2000, value: entry.comment || "", id: "comment" });
    comment.addEventListener("input", () => {
      entry.comment = comment.value;
      this.onChange();
    });
    const label = element("label", { className: "comment", textContent: "Remarks on this bag" });
    label.append(comment);
    this.root.append(this.ranking, label);
    this.showRanking();
  }

  criterionRow(criterion, i) {
    const section = element("section", { className: "criterion" });
    const head = element("div", { className: "criterion-head" });
    head.append(element("h3", { textContent: criterion.name }), element("span", { className: "quiet", textContent: criterion.question }));
    if (i === 0) {
      const { lowest, highest, lowest_means: low, highest_means: high } = this.protocol;
      head.append(element("span", { className: "quiet scale", textContent: `${lowest} ${low} – ${highest} ${high}` }));
    }
    const row = element("div", { className: "row" });
    row.append(...this.bag.letters.map((letter) => this.levelsOf(criterion, letter)));
    section.append(head, row);
    return section;
  }

  levelsOf(criterion, letter) {
    const group = element("fieldset", { className: "scores" });
    group.append(element("legend", { className: "hidden", textContent: `${criterion.name}, image ${letter}` }));
    const levels = element("div", { className: "levels" });
    for (const level of this.levels) {
      const label = element("label");
      const input = element("input", {
        type: "radio", name: `${letter}-${criterion.key}`, value: level, checked: this.entry.scores[letter]?.[criterion.key] === level,
      });
      input.addEventListener("change", () => this.give(letter, criterion.key, level));
      label.append(input, element("span", { textContent: level }));
      levels.append(label);
    }
    const chip = element("span", { className: "letter", textContent: letter });
    chip.setAttribute("aria-hidden", "true");
    group.append(chip, levels);
    return group;
  }

  give(letter, key, level) {
    (this.entry.scores[letter] ??= {})[key] = level;
    this.pending = {};
    this.showRanking();
    this.onChange();
  }

  // Score the focused group, or the first empty one, by a digit, and move on to the group after it.
  type(level) {
    const groups = [...this.root.querySelectorAll(".scores")];
    const focused = groups.indexOf(document.activeElement?.closest?.(".scores"));
    const at = focused >= 0 ? focused : groups.findIndex((group) => !group.querySelector(":checked"));
    if (at < 0) return;
    const input = groups[at].querySelector(`input[value="${level}"]`);
    input.checked = true;
    input.dispatchEvent(new Event("change"));
    const after = groups[at + 1];
    if (after) return (after.querySelector(":checked") || after.querySelector("input")).focus();
    (this.ranking.querySelector(".tie:not(.settled) button") || input).focus();
    this.ranking.scrollIntoView({ block: "nearest" });
  }

  showRanking() {
    const { totals, groups, tied } = this.standing(this.bag, this.entry);
    const complete = totals.size === this.bag.letters.length;
    const highest = this.protocol.highest * this.keys.length;
    const head = element("div", { className: "criterion-head" });
    head.append(element("h3", { textContent: "Ranking" }), element("span", {
      className: "quiet", textContent: complete ? "From the totals; 1 is best." : "Follows from the totals once every score is given.",
    }));
    const row = element("div", { className: "row" });
    for (const letter of this.bag.letters) {
      const standing = element("div", { className: "standing" });
      const rank = complete ? `Rank ${this.rankText(groups, letter)}` : "";
      standing.append(element("b", { textContent: letter }),
        element("span", { textContent: totals.has(letter) ? `${totals.get(letter)} of ${highest}` : "–" }),
        element("b", { className: "rank", textContent: rank }));
      standing.dataset.letter = letter;
      row.append(standing);
    }
    this.ranking.replaceChildren(head, row, ...(complete ? tied.map((members) => this.tieBox(members)) : []));
  }

  rankText(groups, letter) {
    let before = 0;
    for (const group of groups) {
      if (group.includes(letter)) return group.length === 1 ? `${before + 1}` : `${before + 1}–${before + group.length}`;
      before += group.length;
    }
    return "";
  }

  tieBox(members) {
    const name = members.join("");
    const decided = this.entry.ties[name];
    const chosen = this.pending[name] || [];
    const box = element("div", { className: `tie${decided ? " settled" : ""}` });
    box.dataset.tie = name;
    const decide = (groups) => {
      if (groups) this.entry.ties[name] = groups;
      else delete this.entry.ties[name];
      delete this.pending[name];
      this.showRanking();
      this.onChange();
      this.ranking.querySelector(`[data-tie="${name}"] button`)?.focus();
    };
    const button = (text, action) => {
      const made = element("button", { type: "button", className: "button", textContent: text });
      made.addEventListener("click", action);
      return made;
    };
    const list = `${members.slice(0, -1).join(", ")} and ${members.at(-1)}`;
    if (decided) {
      const order = decided.map((group) => group.join(" = ")).join(" before ");
      box.append(element("span", { textContent: `${list} have the same total; you said ${order}.` }), button("Change", () => decide(null)));
      return box;
    }
    const question = chosen.length ? `Best: ${chosen.join(", ")}. And then?` : `${list} have the same total. Which is ${members.length === 2 ? "better" : "best"}?`;
    box.append(element("span", { textContent: question }));
    for (const letter of members.filter((other) => !chosen.includes(other))) {
      box.append(button(letter, () => {
        const next = [...chosen, letter];
        const rest = members.filter((other) => !next.includes(other));
        if (rest.length === 1) return decide([...next, ...rest].map((one) => [one]));
        this.pending[name] = next;
        this.showRanking();
        this.ranking.querySelector(`[data-tie="${name}"] button`)?.focus();
      }));
    }
    if (!chosen.length) box.append(button("No difference", () => decide([members])));
    else box.append(button("Rest equal", () => {
      decide([...chosen.map((one) => [one]), members.filter((other) => !chosen.includes(other))]);
    }));
    return box;
  }
}
