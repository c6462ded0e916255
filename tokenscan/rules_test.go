package tokenscan_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ruleTexts are texts with one token of the prefix lk, which a rule must find.
func ruleTexts(token string) []string {
	return []string{token, `token = "` + token + `"`, "Bearer " + token + "\n", "API_KEY_" + token, "x=" + token + "&y=1", "\t" + token + "\r\n"}
}

func readDoc(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "docs", "scanning", name))
	must(t, err)
	return string(data)
}

func TestTheRulesForGitleaksFindTheTokensOfTheVectors(t *testing.T) {
	rules := regexp.MustCompile(`(?m)^regex = '''(.*)'''$`).FindAllStringSubmatch(readDoc(t, "gitleaks.toml"), -1)
	if len(rules) != 2 {
		t.Fatalf("there are %d rules", len(rules))
	}
	for i, rule := range rules {
		checkRule(t, regexp.MustCompile(rule[1]), 1, i == 1)
	}
}

func TestTheExpressionsForGitHubFindTheTokensOfTheVectors(t *testing.T) {
	doc := readDoc(t, "README.md")
	var lines []string
	for line := range strings.Lines(doc) {
		if text, code := strings.CutPrefix(line, "    "); code {
			lines = append(lines, strings.TrimRight(text, "\n"))
		}
	}
	if len(lines) != 5 {
		t.Fatalf("the expressions are %q", lines)
	}
	secret, before, after, example, general := lines[0], lines[1], lines[2], lines[3], lines[4]
	whole := regexp.MustCompile("(?:" + before + ")(" + secret + ")(?:" + after + ")")
	checkRule(t, whole, 1, false)
	if !whole.MatchString(example) || len(find(t, strings.NewReader(example), "lk")) != 1 {
		t.Errorf("the test string does not match: %s", example)
	}
	for _, v := range readVectors(t).Genuine {
		if got := regexp.MustCompile(general).MatchString("key: " + v.Token); got != (v.Prefix == "lk") {
			t.Errorf("%s finds %s: %v", general, v.Token, got)
		}
	}
}

// checkRule checks that a rule finds the tokens of the vectors in texts.
func checkRule(t *testing.T, rule *regexp.Regexp, group int, anyPrefix bool) {
	t.Helper()
	for _, v := range readVectors(t).Genuine {
		if anyPrefix && v.Token[len(v.Prefix)+1] != '0' {
			continue // no key is that old or that new
		}
		for _, text := range ruleTexts(v.Token) {
			m := rule.FindStringSubmatch(text)
			found := m != nil && m[group] == v.Token
			if want := v.Prefix == "lk" || anyPrefix; found != want {
				t.Errorf("%s in %q: found %v, want %v", rule, text, found, want)
			}
		}
		for _, text := range []string{v.Token + "0", v.Token[:len(v.Token)-1], "lk-" + v.Token[3:]} {
			if rule.MatchString(text) {
				t.Errorf("%s matches %q", rule, text)
			}
		}
	}
}
