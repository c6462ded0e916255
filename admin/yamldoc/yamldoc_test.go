package yamldoc_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/admin/yamldoc"
)

type person struct {
	Name string            `json:"name"`
	Tags map[string]string `json:"tags"`
	Pets []person          `json:"pets"`
	Old  *bool             `json:"old"`
}

func check(text string) error {
	root, err := yamldoc.Parse([]byte(text))
	if err == nil && root != nil {
		err = yamldoc.Check(root, reflect.TypeFor[person](), nil)
	}
	return err
}

func TestWhatCanBeReadIsAccepted(t *testing.T) {
	for _, text := range []string{
		"", "{}", "name: Ada\ntags: {a: b}\npets: []\nold: yes", `{"name": "Ada", "old": null, "pets": [{"name": "Rex"}]}`,
		"pets:\n- &rex {name: Rex}\n- {<<: *rex, name: Max}\n- *rex",
	} {
		if err := check(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAMistakeIsNamedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"name: 3":                         "line 1: name: put quotes around it, because without quotes it is not text",
		"name: Ada\nage: 3":               `line 2: there is no field "age"; the fields are name, tags, pets, old`,
		"pets:\n- name: Rex\n- Max":       "line 3: pets[1]: write name: before the name, as in {name: laptop}",
		"name: Ada\nname: Ada":            "line 2: the field name is there twice",
		"old: maybe":                      "line 1: old: it must be true or false",
		"tags: [a]":                       "line 1: tags: it must have names and texts, as in {site: Turin}",
		"pets: &a\n- pets: *a":            "line 1: pets[0].pets: it contains itself",
		"name: Ada\n---\nname: Bob":       "line 2: there is a second document; the file must be one document",
		"pets: {name: Rex}":               "line 1: pets: it must be a list; begin each element with a dash",
		"pets:\n- <<: 3":                  "line 2: pets[0]: << must be followed by an alias of fields, as in <<: *ada",
		"name: [":                         "line 1: did not find expected node content",
		strings.Repeat("pets: [{", 1e5):   "",
		strings.Repeat("[", 1<<20):        "",
		"pets: " + strings.Repeat("[", 9): "line 1: did not find expected node content",
	} {
		if err := check(text); err == nil || want != "" && err.Error() != want {
			t.Errorf("%.100q: got %v, want %s", text, err, want)
		}
	}
}

func TestAliasesStandForABoundedNumberOfParts(t *testing.T) {
	text := "pets:\n- &a0 {name: Rex}\n"
	for i := range 30 {
		text += fmt.Sprintf("- &a%d {pets: [*a%d, *a%[2]d, *a%[2]d, *a%[2]d]}\n", i+1, i)
	}
	if err := check(text); err == nil || !strings.Contains(err.Error(), "the aliases stand for too much") {
		t.Errorf("got %v", err)
	}
	text = "tags: &t {" + strings.Repeat("a: b, ", 1000) + "}\npets:\n" + strings.Repeat("- tags: *t\n", 1000)
	if err := check(text); err == nil || !strings.Contains(err.Error(), "the aliases stand for too much") {
		t.Errorf("got %v", err)
	}
}
